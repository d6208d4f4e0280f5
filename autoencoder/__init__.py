"""The first stage: clips <-> triplane latents."""

from autoencoder import compact, separable  # noqa: F401  (register themselves)
from autoencoder.codec import Codec, load_autoencoder

__all__ = ["Codec", "load_autoencoder"]
