"""The condition that shows motion: VIDM's (Mei & Patel 2023), on latents and without a flow network from elsewhere."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from autoencoder.planes import Planes, PlaneShape, pack, unpack
from latent_diffusion.condition import CONDITIONS, Condition, Context, check_width
from latent_diffusion.modulation import HintSpec
from latent_diffusion.sheets import wide


def correlation(a: Tensor, b: Tensor, radius: int) -> Tensor:
    """How well the features at each place of a fit those of b around it: b d h w, twice -> b (2 r + 1)^2 h w.

    The displacement (dy, dx) has the channel (dy + r)(2 r + 1) + dx + r; beyond the border of b there is nothing, 0.
    """
    size = 2 * radius + 1
    near = F.unfold(b, size, padding=radius).unflatten(1, (b.shape[1], size**2)).unflatten(-1, b.shape[-2:])
    return (a[:, :, None] * near).sum(1) / math.sqrt(a.shape[1])


@CONDITIONS.register("implicit")
class Implicit(Condition):
    """Motion from an anchor clip to the one before the target modulates the positional normalisations.

    Where VIDM asks a flow network, learned features of the two clips are compared at small displacements, on each plane:
    in space on hw, in space and time on tw and th. With the features of all that is seen the result joins the place in
    every block's positional norm (see modulation.Positional). It does not depend on the noise, so a clip
    pays for it once. The anchor lies two clips before the target and moves along with it: VIDM's stays at a video's
    start, where the distance grows beyond all that was trained. `self` and `future` may be seen as well.

    Args:
        dim: width of the features.
        radius: largest displacement that is compared, in tokens. Others: see Condition.
    """

    def __init__(self, shape: PlaneShape, channels: int, frames: int, *, sees: Sequence[str] = ("anchor", "past", "self"),
                 mask: bool = True, residual: bool = False, null_token: bool = False, history: bool = False,
                 dim: int = 64, radius: int = 2):
        super().__init__(shape, channels, frames, sees=sees, mask=mask, residual=residual, null_token=null_token,
                         history=history)
        if not {"anchor", "past"} <= set(sees):
            raise ValueError(f"condition.name=implicit looks at the motion from the anchor to the past; both must be in "
                             f"condition.sees, got {list(sees)}")
        check_width(dim)
        if radius < 0:
            raise ValueError(f"condition.radius must not be negative, got {radius}")
        self.dim, self.radius = dim, radius
        self.look = nn.Sequential(nn.Conv2d(channels + mask, dim, 3, padding=1), nn.SiLU(), nn.Conv2d(dim, dim, 3, padding=1))
        motion = (2 * radius + 1) ** 2
        self.join = nn.Sequential(nn.Conv2d(motion + len(self.sees) * dim, dim, 3, padding=1), nn.SiLU(),
                                  nn.Conv2d(dim, dim, 3, padding=1))

    @property
    def hint_spec(self) -> HintSpec:
        return HintSpec("motion", self.dim, self.dim)

    def hint(self, context: Context) -> Tensor:
        observed = rearrange(self.observed(context), "b k c n -> (b k) c n")
        return pack(Planes(*(self._motion(plane) for plane in unpack(observed, self.shape))))

    def _motion(self, plane: Tensor) -> Tensor:  # (b k) c h w -> b dim h w
        seen = self.look(plane.to(self.look[0].weight)).unflatten(0, (-1, len(self.sees)))  # b k d h w
        anchor, past = (wide(seen[:, self.sees.index(place)]) for place in ("anchor", "past"))
        motion = correlation(anchor, past, self.radius).to(seen.dtype)
        return self.join(torch.cat([motion, seen.flatten(1, 2)], dim=1))
