"""The U-Net over the three planes of a latent.

After PVDM (Yu et al., CVPR 2023): a guided-diffusion U-Net (Dhariwal and Nichol, 2021) runs with the same
weights on every plane, and after each block the planes meet in an attention over the packed sequence.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoencoder.planes import PlaneShape
from latent_diffusion.attention import PackedAttention, PlaneAttention
from latent_diffusion.cross_slot import CrossSlotAttention, Memory, SlotView
from latent_diffusion.modulation import Adapt, Hint, HintSpec, Positional, Side
from latent_diffusion.sheets import (
    POSITION_FEATURES,
    Norm,
    Sheets,
    Sizes,
    convolve,
    coordinates,
    equal_planes,
    from_sheets,
    halved,
    per_plane,
    position_features,
    pyramid,
    time_features,
    to_sheets,
    wide,
    zeroed,
)


@dataclass(frozen=True)
class UNetConfig:
    """Size and options of the U-Net; the defaults are PVDM's published `base` (528.3 M parameters)."""
    width: int = 256                            # channels of the outermost level (PVDM: model_channels)
    mult: tuple[int, ...] = (1, 2, 4, 4)        # width of each level, in units of `width`
    res_blocks: int = 2                         # per level on the way down, one more on the way up
    attention: tuple[int, ...] = (4, 2, 1)      # downsampling rates where a plane attends to itself
    heads: int = 8
    norm_groups: int = 0                        # 0 = 32 as in PVDM, but fewer below 64 channels (see Norm)
    dropout: float = 0.0                        # drawn per process: other process counts then differ
    time_scale: float = 1.0                     # 1000 for models that are fed t in [0, 1]
    positions: bool = False                     # tell the trunk where, and on which plane, a token lies
    positional_norm: bool = False               # scale and shift the second norm of a block by time and place, too
    canvas: bool = False                        # a learned constant latent joins the input (see PlanesUNet)
    zero_out: bool = True                       # every residual branch, and the output, start at zero
    qk_norm: bool = False                       # RMS norm on queries and keys
    grad_checkpoint: bool = False               # recompute activations in the backward pass

    def __post_init__(self):
        for name in ("mult", "attention"):      # a YAML gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.width < 2 or self.width % 2:
            raise ValueError(f"unet.width must be positive and even, got {self.width}")
        if not self.mult or min(self.mult) < 1:
            raise ValueError(f"unet.mult must list a positive factor of the width per level, got {self.mult}")
        if self.res_blocks < 1:
            raise ValueError(f"unet.res_blocks must be at least 1, got {self.res_blocks}")
        rates = [2 ** level for level in range(len(self.mult))]
        for rate in self.attention:
            if rate not in rates:
                raise ValueError(f"unet.attention has the rate {rate}, but unet.mult makes levels at {rates}")
        for m in self.mult:
            if self.heads < 1 or self.width * m % self.heads:
                raise ValueError(f"unet.heads={self.heads} must divide the channels of every level, but not "
                                 f"{self.width * m} = unet.width x {m}")
        if self.norm_groups < 0:
            raise ValueError(f"unet.norm_groups must be 0 (automatic) or positive, got {self.norm_groups}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"unet.dropout must be in [0, 1), got {self.dropout}")


class ResBlock(nn.Module):
    """Two convolutions with a time-dependent scale and shift; may halve the grid or double it.

    Args:
        level: of the trunk, whose grid the input has.
        hint: the condition that joins the normalisations, if one does.
    """

    def __init__(self, channels: int, out: int, emb: int, cfg: UNetConfig, resample: str = "", level: int = 0,
                 hint: HintSpec | None = None):
        super().__init__()
        self.resample = resample                      # "", "down" or "up"
        self.levels = level, level + {"": 0, "down": 1, "up": -1}[resample]
        kind = hint.kind if hint else None
        self.norm1 = Norm(channels, cfg.norm_groups, affine=kind != "spade")
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * out)
        self.norm2 = Norm(out, cfg.norm_groups, affine=kind != "spade")
        self.dropout = nn.Dropout(cfg.dropout)
        self.conv2 = zeroed(nn.Conv2d(out, out, 3, padding=1), cfg.zero_out)
        self.skip = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)
        self.adapt = self.positional = None
        if kind == "spade":
            self.adapt = nn.ModuleList([Adapt(c, hint, cfg.zero_out) for c in (channels, out)])
        if cfg.positional_norm or kind == "motion":
            self.positional = Positional(out, hint.channels if kind == "motion" else 0, cfg.zero_out)

    def read_hint(self, levels: list[Sheets]) -> list:
        """What depends on the condition alone, for each sheet: scales and shifts, or its part of the positional norm."""
        if self.adapt is not None:
            before, after = (levels[level] for level in self.levels)
            return [(self.adapt[0](x), self.adapt[1](y)) for x, y in zip(before, after)]
        return [self.positional.motion(x) for x in levels[self.levels[1]]]

    def forward(self, sheets: Sheets, side: Side, sizes: Sizes | None) -> Sheets:
        scale, shift = wide(self.emb(side.emb)).chunk(2, dim=-1)  # b c
        hints = side.hint.of(self) if side.hint else [None] * len(sheets)
        adapts = hints if self.adapt is not None else [(None, None)] * len(sheets)
        inner = []
        for i, (x, (adapt, _)) in enumerate(zip(sheets, adapts)):
            h = self._adapted(self.norm1(x), adapt)
            inner.append(self.resize(F.silu(h).to(x.dtype), sizes and sizes[i]))
        inner = convolve(self.conv1, inner)
        for i, (x, (_, adapt)) in enumerate(zip(inner, adapts)):
            s, b = per_plane(1 + scale, x), per_plane(shift, x)
            if self.positional is not None:
                motion = None if self.adapt is not None else hints[i]
                more = self.positional(side.time, side.places[self.levels[1]][i], motion)
                s, b = s + more[0], b + more[1]
            h = torch.addcmul(b, self._adapted(self.norm2(x), adapt), s)
            inner[i] = self.dropout(F.silu(h).to(x.dtype))
        skips = [self.resize(x, sizes and sizes[i]) for i, x in enumerate(sheets)]
        if isinstance(self.skip, nn.Conv2d):
            skips = convolve(self.skip, skips)
        return [skip + x for skip, x in zip(skips, convolve(self.conv2, inner))]

    @staticmethod
    def _adapted(x: Tensor, adapt: tuple[Tensor, Tensor] | None) -> Tensor:
        return x if adapt is None else torch.addcmul(adapt[1], x, adapt[0])

    def resize(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.resample == "down":
            return halved(x)
        if self.resample == "up":
            return F.interpolate(x, size=size, mode="nearest")  # x2, cropped where the way down rounded up
        return x


class Stage(nn.Module):
    """One entry of the U-Net: blocks on each plane, then the attention over all of them, and that over clips if any."""

    def __init__(self, blocks: list[nn.Module], channels: int, cfg: UNetConfig, windows: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.mix = PackedAttention(channels, cfg)
        self.cross = CrossSlotAttention(channels, cfg) if windows else None

    def forward(self, sheets: Sheets, side: Side, sizes: Sizes | None = None) -> Sheets:
        for block in self.blocks:
            sheets = block(sheets, side, sizes)
        sheets = self.mix(sheets, len(side.emb))
        return sheets if self.cross is None else self.cross(sheets, side.slots)


class PlanesUNet(nn.Module):
    """U-Net over packed planes, for clips of any `shape`.

    With cfg.canvas a learned constant latent, drawn as noise, joins the input: all that VIDM's release (Mei & Patel
    2023) has of its truncated sampling space. The truncation itself is in noise.py.

    Args:
        cfg: width, depth and options.
        shape: token grid of a clip; odd sizes and single frames work.
        latent_channels: channels of the output.
        in_channels: channels of the input, condition included; `latent_channels` when left out.
        hint: of the condition that joins the normalisations, if one does.
        windows: the batch axis holds all clips (slots) of windows, which meet in an attention after each block.
    """

    def __init__(self, cfg: UNetConfig, shape: PlaneShape, latent_channels: int,
                 in_channels: int | None = None, hint: HintSpec | None = None, windows: bool = False):
        super().__init__()
        self.cfg, self.shape, self.hint_spec, self.windows = cfg, shape, hint, windows
        self.latent_channels, self.in_channels = latent_channels, in_channels or latent_channels
        self.groups = equal_planes(shape)
        self.emb_dim = emb = 4 * cfg.width
        self.time_embed = nn.Sequential(nn.Linear(cfg.width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.conv_in = nn.Conv2d(self.in_channels + cfg.canvas * latent_channels, cfg.width, 3, padding=1)
        if cfg.positions:
            self.positions = nn.Linear(POSITION_FEATURES, cfg.width)
            nn.init.zeros_(self.positions.weight)
            nn.init.zeros_(self.positions.bias)
        self._build_trunk(cfg, emb)
        self.norm_out = Norm(cfg.width * cfg.mult[0], cfg.norm_groups)
        self.conv_out = zeroed(nn.Conv2d(cfg.width * cfg.mult[0], latent_channels, 3, padding=1), cfg.zero_out)
        self.canvas = nn.Parameter(torch.randn(latent_channels, shape.total)) if cfg.canvas else None
        self.to(memory_format=torch.channels_last)

    def _build_trunk(self, cfg: UNetConfig, emb: int):
        def block(channels: int, out: int, level: int, resample: str = "") -> ResBlock:
            return ResBlock(channels, out, emb, cfg, resample, level, self.hint_spec)

        def blocks(channels: int, out: int, level: int) -> list[nn.Module]:
            attend = [PlaneAttention(out, cfg)] if 2 ** level in cfg.attention else []
            return [block(channels, out, level), *attend]

        def stage(entry: list[nn.Module], out: int) -> Stage:
            return Stage(entry, out, cfg, self.windows)

        widths = [cfg.width * m for m in cfg.mult]
        channels, skips = cfg.width, [cfg.width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, out in enumerate(widths):
            for _ in range(cfg.res_blocks):
                self.down.append(stage(blocks(channels, out, level), out))
                channels = out
                skips.append(out)
            if level + 1 < len(widths):
                self.down.append(stage([block(out, out, level, "down")], out))
                skips.append(out)
        bottom = len(widths) - 1
        self.middle = stage([block(channels, channels, bottom), PlaneAttention(channels, cfg),
                             block(channels, channels, bottom)], channels)
        for level, out in reversed(list(enumerate(widths))):
            for i in range(cfg.res_blocks + 1):
                entry = blocks(channels + skips.pop(), out, level)
                if level and i == cfg.res_blocks:
                    entry.append(block(out, out, level, "up"))
                self.up.append(stage(entry, out))
                channels = out

    def read_hint(self, hint: Tensor, keep: bool = False) -> Hint:
        """What `forward` takes as hint, of b f n; see Hint for `keep`."""
        return Hint(pyramid(to_sheets(hint, self.shape, self.groups), len(self.cfg.mult)), keep)

    def forward(self, x: Tensor, t: Tensor, emb_extra: Tensor | None = None, hint: Hint | None = None,
                slots: SlotView | None = None) -> Tensor:
        """Output of the network, in the parametrisation it was trained with.

        Args:
            x: b c n, noisy latent with the condition's channels after it.
            t: b, time of each sample, float or int, in the units that `cfg.time_scale` expects.
            emb_extra: b `emb_dim`, added to the time embedding.
            hint: what `read_hint` makes of the condition that joins the normalisations.
            slots: which clips of which windows the batch axis holds.

        Returns:
            b `latent_channels` n.
        """
        sheets = self._trunk(x, t, emb_extra, hint, slots)
        out = [self.conv_out(F.silu(self.norm_out(x)).to(x.dtype)) for x in sheets]
        return from_sheets(out, len(x), self.groups)

    def remember(self, x: Tensor, t: Tensor, emb_extra: Tensor | None, slots: SlotView) -> Memory:
        """The keys and values of clips that others will look at; nothing is made of them after the last attention."""
        memory = slots.begin_recording(self.up[-1].cross)
        self._trunk(x, t, emb_extra, None, slots)
        return memory

    def _trunk(self, x: Tensor, t: Tensor, emb_extra: Tensor | None, hint: Hint | None, slots: SlotView | None) -> Sheets:
        if x.shape[1] != self.in_channels:
            raise ValueError(f"the U-Net takes {self.in_channels} channels, got {x.shape[1]}")
        assert (hint is None) == (self.hint_spec is None), "a hint goes with a network that was built for one"
        assert (slots is None) == (not self.windows), "slots go with a network that was built for windows"
        side = self._side(t, emb_extra, hint, slots)
        sheets = self._read(x)
        skips = [sheets]
        for stage in self.down:
            sheets = self._run(stage, sheets, side)
            skips.append(sheets)
        sheets = self._run(self.middle, sheets, side)
        for stage in self.up:
            joined = [torch.cat(pair, dim=1) for pair in zip(sheets, skips.pop())]
            sizes = [tuple(x.shape[-2:]) for x in skips[-1]] if skips else None
            sheets = self._run(stage, joined, side, sizes)
        return sheets

    def _run(self, stage: Stage, *args) -> Sheets:
        if self.cfg.grad_checkpoint and torch.is_grad_enabled():
            return checkpoint(stage, *args, use_reentrant=False)
        return stage(*args)

    def _side(self, t: Tensor, emb_extra: Tensor | None, hint: Hint | None, slots: SlotView | None) -> Side:
        dtype, steps, places = self.conv_in.weight.dtype, t * self.cfg.time_scale, None
        emb = self.time_embed(time_features(steps, self.cfg.width).to(dtype))
        if self.middle.blocks[0].positional is not None:
            where = coordinates(self.shape, t.device)
            sheets = [torch.stack([where[i] for i in group]).to(dtype) for group in self.groups]
            places = pyramid(sheets, len(self.cfg.mult))
        return Side(F.silu(emb if emb_extra is None else emb + emb_extra), (steps / 500 - 1).to(dtype), places, hint, slots)

    def _read(self, x: Tensor) -> Sheets:
        """b c n -> planes of equal size on one batch axis, after the first convolution."""
        if self.canvas is not None:
            x = torch.cat([x, self.canvas.to(x.dtype).expand(len(x), -1, -1)], dim=1)
        sheets = [self.conv_in(sheet) for sheet in to_sheets(x, self.shape, self.groups)]
        if self.cfg.positions:
            where = position_features(self.shape, x.device)
            for i, group in enumerate(self.groups):
                features = torch.stack([where[j] for j in group]).permute(0, 2, 3, 1)   # k h w f
                offset = self.positions(features.to(self.positions.weight.dtype)).permute(0, 3, 1, 2)
                sheets[i] = sheets[i] + offset.repeat(len(x), 1, 1, 1)
        return sheets
