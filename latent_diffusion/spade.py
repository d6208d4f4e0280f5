"""The condition that scales and shifts the network's normalisations: SPATIN of MCVD (Voleti et al. 2022)."""

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor

from autoencoder.planes import PlaneShape
from latent_diffusion.condition import CONDITIONS, Condition, Context, check_width
from latent_diffusion.modulation import HintSpec


@CONDITIONS.register("spade")
class Spade(Condition):
    """What `concat` puts on the channels, through space-time adaptive normalisation.

    Both normalisations of every ResBlock have no weights of their own; two small convolutions over the condition, at the
    size of the block's grid, say at every position how they scale and shift. The network's input is the noisy latent
    alone. None of it depends on the noise, so a clip pays for it once.

    Args:
        dim: width between the two convolutions. Others: see Condition.
    """

    def __init__(self, shape: PlaneShape, channels: int, frames: int, *, sees: Sequence[str] = ("past",),
                 mask: bool = False, residual: bool = False, null_token: bool = False, history: bool = False,
                 dim: int = 64):
        super().__init__(shape, channels, frames, sees=sees, mask=mask, residual=residual, null_token=null_token,
                         history=history)
        if not sees:
            raise ValueError("condition.name=spade has nothing to look at with condition.sees=[]; use concat for that")
        check_width(dim)
        self.dim = dim

    @property
    def hint_spec(self) -> HintSpec:
        return HintSpec("spade", len(self.sees) * (self.channels + self.mask), self.dim)

    def hint(self, context: Context) -> Tensor:
        return rearrange(self.observed(context), "b k c n -> b (k c) n")
