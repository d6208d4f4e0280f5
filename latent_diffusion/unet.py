"""The U-Net over the three planes of a latent.

After PVDM (Yu et al., CVPR 2023): a guided-diffusion U-Net (Dhariwal and Nichol, 2021) runs with the same
weights on every plane, and after each block the planes meet in an attention over the packed sequence.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoencoder.planes import Planes, PlaneShape, pack, unpack


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


def wide(x: Tensor) -> Tensor:
    """At least float32, for what autocast must not narrow."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Norm(nn.GroupNorm):
    """Group norm in float32 whatever autocast says.

    `groups` of them, or gcd(groups, channels) if that does not divide. Left open (0), it is 32 as in PVDM, but
    below 64 channels a group has 8 or more: one of a single channel would erase every plane's mean.
    """

    def __init__(self, channels: int, groups: int = 0):
        groups = groups or (32 if channels >= 64 else math.gcd(32, channels // 8 or 1))
        super().__init__(math.gcd(groups, channels), channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:  # b c ... -> wide, same shape
        x = wide(x)
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


# Plain views from here on, not einops: torch.compile traces them in seconds, einops in minutes.
Sheets = list[Tensor]           # each (b k) c h w: the k planes of one size, those of a sample side by side
Sizes = list[tuple[int, int]]   # the grid of each sheet


def equal_planes(shape: PlaneShape) -> list[list[int]]:
    """Indices of the planes hw, tw, th, those of equal size together, to be one batch."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, size in enumerate([(shape.h, shape.w), (shape.t, shape.w), (shape.t, shape.h)]):
        groups.setdefault(size, []).append(i)
    return list(groups.values())


def per_plane(value: Tensor, sheet: Tensor) -> Tensor:
    """A value of each sample for each of its planes in a sheet: b c -> (b k) c 1 1."""
    b, c = value.shape
    return value[:, None].expand(b, len(sheet) // b, c).reshape(-1, c, 1, 1)


def as_tokens(sheet: Tensor, batch: int) -> Tensor:
    """The positions of a sheet as sequences: (b k) c h w -> b (k h w) c; a view of a channels-last sheet."""
    return sheet.permute(0, 2, 3, 1).reshape(batch, -1, sheet.shape[1])


def as_sheet(tokens: Tensor, like: Tensor) -> Tensor:
    """Inverse of as_tokens, channels-last."""
    return tokens.reshape(-1, *like.shape[-2:], tokens.shape[-1]).permute(0, 3, 1, 2)


def zeroed(module: nn.Module, cfg: UNetConfig) -> nn.Module:
    """The last layer of a residual branch, silent at first if the config says so."""
    if cfg.zero_out:
        for p in module.parameters():
            nn.init.zeros_(p)
    return module


def time_features(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t at width / 2 frequencies from 1 down to 1 / 10000: b -> b width."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device).float())
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


POSITION_OCTAVES = 8                                # periods of 4, 8, ... 512 tokens
POSITION_FEATURES = 3 + 3 * 2 * POSITION_OCTAVES    # which plane; cosines and sines along t, h and w


def position_features(shape: PlaneShape, device: torch.device) -> Planes:
    """Which plane, and where along each axis (zeros along the one it lacks): f h w, f t w, f t h."""
    octaves = 2.0 ** -torch.arange(POSITION_OCTAVES, device=device)
    code = {}
    for axis in "thw":
        angles = math.pi / 2 * octaves[:, None] * torch.arange(getattr(shape, axis), device=device)
        code[axis] = torch.cat([angles.cos(), angles.sin()])  # f length
    planes = []
    for i, axes in enumerate(("hw", "tw", "th")):
        rows, columns = (code[axis] for axis in axes)
        grid = {axes[0]: rows[:, :, None], axes[1]: columns[:, None, :]}
        size = (rows.shape[1], columns.shape[1])
        which = torch.eye(3, device=device)[i, :, None, None].expand(3, *size)
        absent = rows.new_zeros(len(rows), 1, 1)
        along = [grid.get(axis, absent).expand(-1, *size) for axis in "thw"]
        planes.append(torch.cat([which, *along]))
    return Planes(*planes)


class ResBlock(nn.Module):
    """Two convolutions with a time-dependent scale and shift; may halve the grid or double it."""

    def __init__(self, channels: int, out: int, emb: int, cfg: UNetConfig, resample: str = ""):
        super().__init__()
        self.resample = resample                      # "", "down" or "up"
        self.norm1 = Norm(channels, cfg.norm_groups)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.emb = nn.Linear(emb, 2 * out)
        self.norm2 = Norm(out, cfg.norm_groups)
        self.dropout = nn.Dropout(cfg.dropout)
        self.conv2 = zeroed(nn.Conv2d(out, out, 3, padding=1), cfg)
        self.skip = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, sheets: Sheets, emb: Tensor, sizes: Sizes | None) -> Sheets:  # emb: b e, after its SiLU
        scale, shift = wide(self.emb(emb)).chunk(2, dim=-1)  # b c
        return [self.one(x, per_plane(1 + scale, x), per_plane(shift, x), sizes and sizes[i])
                for i, x in enumerate(sheets)]

    def one(self, x: Tensor, scale: Tensor, shift: Tensor, size: tuple[int, int] | None) -> Tensor:
        h = F.silu(self.norm1(x)).to(x.dtype)
        h = self.conv1(self.resize(h, size))
        h = F.silu(torch.addcmul(shift, self.norm2(h), scale)).to(h.dtype)
        return self.skip(self.resize(x, size)) + self.conv2(self.dropout(h))

    def resize(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2, ceil_mode=True)  # an odd last row or column is averaged alone
        if self.resample == "up":
            return F.interpolate(x, size=size, mode="nearest")  # x2, cropped where the way down rounded up
        return x


class Attention(nn.Module):
    """Residual self-attention over tokens; the norm sees the whole sequence."""

    def __init__(self, channels: int, cfg: UNetConfig):
        super().__init__()
        self.heads = cfg.heads
        self.norm = Norm(channels, cfg.norm_groups)
        self.qkv = nn.Linear(channels, 3 * channels)  # output channels: head, then q k v, then features
        self.out = zeroed(nn.Linear(channels, channels), cfg)
        head = channels // cfg.heads
        self.norm_q = nn.RMSNorm(head, eps=1e-6) if cfg.qk_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(head, eps=1e-6) if cfg.qk_norm else nn.Identity()

    def branch(self, tokens: Tensor) -> Tensor:  # b n c -> b n c, what is to be added
        x = tokens.transpose(1, 2)[:, :, None]                           # b c 1 n: group norm takes it as it lies
        x = self.norm(x)[:, :, 0].transpose(1, 2).to(tokens.dtype)
        qkv = self.qkv(x).unflatten(-1, (self.heads, 3, -1))             # b n head 3 d
        q, k, v = qkv.transpose(1, 2).unbind(3)                          # each b head n d
        x = F.scaled_dot_product_attention(self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype), v)
        return self.out(x.transpose(1, 2).flatten(2))


class PlaneAttention(Attention):
    """Every plane attends to itself."""

    def forward(self, sheets: Sheets, emb: Tensor, sizes: Sizes | None) -> Sheets:
        return [x + as_sheet(self.branch(as_tokens(x, len(x))), x) for x in sheets]


class PackedAttention(Attention):
    """The planes attend to each other: all positions of a sample, in any order, are one sequence."""

    def forward(self, sheets: Sheets, batch: int) -> Sheets:
        parts = [as_tokens(x, batch) for x in sheets]
        tokens = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        change = self.branch(tokens).split([part.shape[1] for part in parts], dim=1)
        return [as_sheet(part + c, x) for part, c, x in zip(parts, change, sheets)]


class Stage(nn.Module):
    """One entry of the U-Net: blocks on each plane, then the attention over all of them."""

    def __init__(self, blocks: list[nn.Module], channels: int, cfg: UNetConfig):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.mix = PackedAttention(channels, cfg)

    def forward(self, sheets: Sheets, emb: Tensor, sizes: Sizes | None = None) -> Sheets:
        for block in self.blocks:
            sheets = block(sheets, emb, sizes)
        return self.mix(sheets, len(emb))


class PlanesUNet(nn.Module):
    """U-Net over packed planes, for clips of any `shape`.

    Args:
        cfg: width, depth and options.
        shape: token grid of a clip; odd sizes and single frames work.
        latent_channels: channels of the output.
        in_channels: channels of the input, condition included; `latent_channels` when left out.
    """

    def __init__(self, cfg: UNetConfig, shape: PlaneShape, latent_channels: int,
                 in_channels: int | None = None):
        super().__init__()
        self.cfg, self.shape = cfg, shape
        self.latent_channels, self.in_channels = latent_channels, in_channels or latent_channels
        self.groups = equal_planes(shape)
        self.emb_dim = emb = 4 * cfg.width
        self.time_embed = nn.Sequential(nn.Linear(cfg.width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.conv_in = nn.Conv2d(self.in_channels, cfg.width, 3, padding=1)
        if cfg.positions:
            self.positions = nn.Linear(POSITION_FEATURES, cfg.width)
            nn.init.zeros_(self.positions.weight)
            nn.init.zeros_(self.positions.bias)
        self._build_trunk(cfg, emb)
        self.norm_out = Norm(cfg.width * cfg.mult[0], cfg.norm_groups)
        self.conv_out = zeroed(nn.Conv2d(cfg.width * cfg.mult[0], latent_channels, 3, padding=1), cfg)
        self.to(memory_format=torch.channels_last)

    def _build_trunk(self, cfg: UNetConfig, emb: int):
        def blocks(channels: int, out: int, level: int) -> list[nn.Module]:
            attend = [PlaneAttention(out, cfg)] if 2 ** level in cfg.attention else []
            return [ResBlock(channels, out, emb, cfg), *attend]

        widths = [cfg.width * m for m in cfg.mult]
        channels, skips = cfg.width, [cfg.width]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, out in enumerate(widths):
            for _ in range(cfg.res_blocks):
                self.down.append(Stage(blocks(channels, out, level), out, cfg))
                channels = out
                skips.append(out)
            if level + 1 < len(widths):
                self.down.append(Stage([ResBlock(out, out, emb, cfg, "down")], out, cfg))
                skips.append(out)
        self.middle = Stage([ResBlock(channels, channels, emb, cfg), PlaneAttention(channels, cfg),
                             ResBlock(channels, channels, emb, cfg)], channels, cfg)
        for level, out in reversed(list(enumerate(widths))):
            for i in range(cfg.res_blocks + 1):
                entry = blocks(channels + skips.pop(), out, level)
                if level and i == cfg.res_blocks:
                    entry.append(ResBlock(out, out, emb, cfg, "up"))
                self.up.append(Stage(entry, out, cfg))
                channels = out

    def forward(self, x: Tensor, t: Tensor, emb_extra: Tensor | None = None) -> Tensor:
        """Output of the network, in the parametrisation it was trained with.

        Args:
            x: b c n, noisy latent with the condition's channels after it.
            t: b, time of each sample, float or int, in the units that `cfg.time_scale` expects.
            emb_extra: b `emb_dim`, added to the time embedding.

        Returns:
            b `latent_channels` n.
        """
        if x.shape[1] != self.in_channels:
            raise ValueError(f"the U-Net takes {self.in_channels} channels, got {x.shape[1]}")
        features = time_features(t * self.cfg.time_scale, self.cfg.width)
        emb = self.time_embed(features.to(self.conv_in.weight.dtype))
        emb = F.silu(emb if emb_extra is None else emb + emb_extra)
        sheets = self._read(x)
        skips = [sheets]
        for stage in self.down:
            sheets = self._run(stage, sheets, emb)
            skips.append(sheets)
        sheets = self._run(self.middle, sheets, emb)
        for stage in self.up:
            joined = [torch.cat(pair, dim=1) for pair in zip(sheets, skips.pop())]
            sizes = [tuple(x.shape[-2:]) for x in skips[-1]] if skips else None
            sheets = self._run(stage, joined, emb, sizes)
        out = [self.conv_out(F.silu(self.norm_out(x)).to(x.dtype)) for x in sheets]
        return self._write(out, len(x))

    def _run(self, stage: Stage, *args) -> Sheets:
        if self.cfg.grad_checkpoint and torch.is_grad_enabled():
            return checkpoint(stage, *args, use_reentrant=False)
        return stage(*args)

    def _read(self, x: Tensor) -> Sheets:
        """b c n -> planes of equal size on one batch axis, after the first convolution."""
        planes = unpack(x, self.shape)
        sheets = []
        for group in self.groups:
            sheet = torch.stack([planes[i] for i in group], dim=1).flatten(0, 1)
            sheets.append(self.conv_in(sheet.contiguous(memory_format=torch.channels_last)))
        if self.cfg.positions:
            where = position_features(self.shape, x.device)
            for i, group in enumerate(self.groups):
                features = torch.stack([where[j] for j in group]).permute(0, 2, 3, 1)   # k h w f
                offset = self.positions(features.to(self.positions.weight.dtype)).permute(0, 3, 1, 2)
                sheets[i] = sheets[i] + offset.repeat(len(x), 1, 1, 1)
        return sheets

    def _write(self, sheets: Sheets, batch: int) -> Tensor:
        """Inverse of the grouping in _read: sheets -> b c n."""
        planes = [None] * 3
        for group, sheet in zip(self.groups, sheets):
            for i, plane in zip(group, sheet.unflatten(0, (batch, len(group))).unbind(1)):
                planes[i] = plane
        return pack(Planes(*planes))
