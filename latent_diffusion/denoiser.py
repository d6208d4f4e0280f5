"""The trained network with its condition, and how it becomes the `denoise` that samplers call."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoencoder.planes import PlaneShape
from latent_diffusion.condition import CONDITIONS, Context
from latent_diffusion.modulation import Hint
from latent_diffusion.process import Denoised, ProcessConfig, to_denoised
from latent_diffusion.samplers import Denoiser
from latent_diffusion.schedule import Level, ScheduleConfig, level_at
from latent_diffusion.sheets import time_features
from latent_diffusion.unet import PlanesUNet, UNetConfig
from latent_diffusion.window import PreparedWindow, WindowContext, prepare_window, run_window

LEVEL_FEATURES = 32  # of the history noise of each place


class Prepared(NamedTuple):
    """All that the network takes from a context: what does not depend on x or t, made once for all evaluations."""
    base: Tensor | float   # that the output is added to
    beside: Tensor | None  # b c n: channels beside x
    extra: Tensor | None   # b e: added to the embedding of t
    hint: Hint | None      # in the normalisations


AnyContext = Context | WindowContext
AnyPrepared = Prepared | PreparedWindow


class LatentDenoiser(nn.Module):
    """Noisy latent, level label and context -> the network's output (see process.py), all b c n.

    Args:
        unet: sizes of the network.
        condition: name and options, see condition.py.
        shape, channels: of the latent.
        frames: of a clip.
    """

    def __init__(self, unet: UNetConfig, condition: Mapping[str, Any], shape: PlaneShape, channels: int,
                 frames: int):
        super().__init__()
        self.condition = CONDITIONS.bind(condition)(shape, channels, frames)
        self.unet = PlanesUNet(unet, shape, channels, self.condition.in_channels, self.condition.hint_spec,
                               self.condition.observes)
        self.shape, self.channels, self.frames = shape, channels, frames
        emb, places = self.unet.emb_dim, len(self.condition.sees)
        self.mask_embed = _silent_mlp(self.condition.bits, emb) if self.condition.bits else None
        self.level_embed = _silent_mlp(places * LEVEL_FEATURES, emb) if self.condition.history else None

    def forward(self, z: Tensor, t: Tensor, context: AnyContext | AnyPrepared | None = None) -> Tensor:
        """Args: z: b c n; t: b, what the schedule calls the level; context: None = nothing is known.

        Where the condition is a window of slots, z and the output are b s c n, and t is b s or b.
        """
        seen = context if isinstance(context, AnyPrepared) else self.prepare(context, z)
        if isinstance(seen, PreparedWindow):
            return run_window(self, z, t, seen)
        x = z if seen.beside is None else torch.cat([z, seen.beside], dim=1)
        return seen.base + self.unet(x, t, seen.extra, seen.hint)

    def prepare(self, context: AnyContext | None, like: Tensor, keep: bool = False) -> AnyPrepared:
        """What `forward` makes of a context first; with `keep` also all that the blocks will make of it.

        Args:
            like: has the shape, device and type of the z to come.
        """
        if self.condition.observes:
            return prepare_window(self, context, like, keep)
        base = self.condition.base(context)
        context = context or self.condition.nothing(len(like), like.device)
        beside, hint = self.condition.beside(context), self.condition.hint(context)
        return Prepared(base, None if beside is None else beside.to(like), self.told(context, like),
                        None if hint is None else self.unet.read_hint(hint.to(like), keep))

    def told(self, context: Context, like: Tensor) -> Tensor | None:
        """What a context adds to the embedding of the level, b e: its masks and its noise."""
        extra = []
        if self.mask_embed is not None:
            extra.append(self.mask_embed(context.known.flatten(1).to(like.dtype)))
        if self.level_embed is not None:
            levels = self.condition.levels(context)  # b k
            features = time_features(1000 * levels.flatten(), LEVEL_FEATURES).unflatten(0, levels.shape)
            extra.append(self.level_embed(features.flatten(1).to(like.dtype)))
        return sum(extra) if extra else None


def _silent_mlp(inputs: int, width: int) -> nn.Sequential:
    """Two layers that say nothing at first."""
    last = nn.Linear(width, width)
    for p in last.parameters():
        nn.init.zeros_(p)
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), last)


def make_denoise(net: LatentDenoiser, parametrisation: str, context: AnyContext | None, autocast: bool = False) -> Denoiser:
    """Fix everything but (x, level): what a sampler calls.

    Args:
        context: of every sample of the batch.
        autocast: run the network in bfloat16.
    """
    prepared: AnyPrepared | None = None

    @torch.no_grad()
    def denoise(x: Tensor, level: Level) -> Denoised:
        nonlocal prepared
        t = torch.full((len(x),), float(level.t), device=x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
            if prepared is None:  # once for all levels
                prepared = net.prepare(context, x, keep=True)
            output = net(x, t, prepared)
        return to_denoised(output.float(), x, level, parametrisation)

    return denoise


class PastForm(nn.Module):
    """A model of ours in PVDM's form: `eps = net(x_t, t, past)`, whatever it was trained to predict."""

    def __init__(self, net: LatentDenoiser, schedule: ScheduleConfig, process: ProcessConfig):
        super().__init__()
        if net.condition.sees not in ((), ("past",)):
            raise ValueError(f"this model looks at {', '.join(net.condition.sees)}, which net(x_t, t, past) cannot say; "
                             "use VideoDiffusion.load instead")
        self.net, self.schedule, self.process = net, schedule, process

    def forward(self, x: Tensor, t: Tensor, past: Tensor | None = None) -> Tensor:
        """Args: x: b c n noisy latent; t: b, labels of the schedule; past: b c n latent of the clip before, or None."""
        if past is not None and not self.net.condition.sees:
            raise ValueError("this model was trained without a condition: leave `past` out")
        context = None
        if past is not None:
            known = torch.ones(len(x), 1, self.net.frames, dtype=torch.bool, device=x.device)
            context = Context(past[:, None], known)
        level = level_at(self.schedule, t)
        return to_denoised(self.net(x, t.float(), context), x, level, self.process.parametrisation).eps
