"""The first stage: clips <-> triplane latents."""

from autoencoder import compact  # noqa: F401  (registers itself)
from autoencoder.codec import Codec, load_autoencoder

__all__ = ["Codec", "load_autoencoder"]
