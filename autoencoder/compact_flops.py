"""Floating-point operations of the compact autoencoder, from its sizes alone."""

from autoencoder.model import AutoencoderConfig
from autoencoder.planes import PLANES


def compact_flops(config: AutoencoderConfig, *, fine_channels: int = 96, fine_depth: int = 2, plane_depth: int = 1,
                  time_patch: int = 1) -> tuple[int, int]:
    """Operations (two for a multiply-add) of encoding and of decoding one clip, those on padding included.

    Matrix products, convolutions and attention count; norms, activations and the pooling's sums do not.
    """
    grid, dim, fine = config.grid, config.channels, fine_channels
    length = grid.t // time_patch
    tokens = length * grid.h * grid.w
    packed = grid.h * grid.w + length * (grid.h + grid.w)      # of the latent
    pixels = config.in_channels * time_patch * (config.patch // 2) ** 2
    border = 4 * tokens * 9 * fine * pixels                    # stem, or to_pixels: a token is four fine ones
    fine_block = 4 * tokens * (9 + 1) * fine**2
    change = tokens * 4 * fine * dim                           # down, or up
    block = tokens * (9 + (3 if length > 1 else 1)) * dim**2
    inner = config.heads * config.head_dim
    attention = packed * (4 * dim * inner + 2 * packed * inner + 2 * 3 * dim**2)
    latent = packed * dim * config.latent_channels
    encoder = (border + -(-fine_depth // 2) * fine_block + change + -(-config.depth // 2) * block
               + len(PLANES) * tokens * dim * (config.heads + dim) + plane_depth * attention + latent)
    decoder = (latent + plane_depth * attention + 2 * packed * dim**2 + config.depth * block + change + fine_depth * fine_block
               + border)
    return 2 * encoder, 2 * decoder
