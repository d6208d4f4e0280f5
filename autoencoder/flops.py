"""Floating-point operations of the published autoencoder, whatever of them an implementation saves."""

from autoencoder.model import AutoencoderConfig


def published_flops(config: AutoencoderConfig, *, projection_depth: int = 4, projection_mlp: int = 512,
                    **others) -> tuple[int, int]:
    """Operations (two for a multiply-add) of encoding and of decoding one clip by PVDM's autoencoder.

    Every position of every layer counts, as in PVDM's code, though only one of each pooled sequence is read.
    """
    grid, dim = config.grid, config.channels
    tokens = grid.t * grid.h * grid.w
    inner = config.heads * config.head_dim
    attention = 8 * tokens * dim * inner  # queries, keys, values and output
    trunk = config.depth * (2 * attention + 4 * tokens * inner * (grid.t + grid.h * grid.w) + 24 * tokens * dim**2)
    patches = 2 * tokens * dim * config.in_channels * config.patch**2
    pools = 0
    for length in (grid.t, grid.h, grid.w):
        positions, half = tokens // length * (length + 1), dim // 2  # with the learned query; heads of half the width
        pools += projection_depth * positions * (8 * dim * half + 4 * half * (length + 1) + 4 * dim * projection_mlp)
    latent = 2 * grid.total * dim * config.latent_channels
    return patches + trunk + pools + latent, latent + trunk + patches
