"""The second stage: diffusion over triplane latents, and the Python API of the whole pipeline."""

from latent_diffusion.modelfile import load_unet
from latent_diffusion.pipeline import VideoDiffusion

__all__ = ["VideoDiffusion", "load_unet"]
