"""The first stage: clips <-> triplane latents."""

from autoencoder.codec import Codec, load_autoencoder

__all__ = ["Codec", "load_autoencoder"]
