"""VideoMAE-v2 (Wang et al. 2023): a plain vision transformer over space-time patches, for FVD that heeds motion.

Sizes are read from the state dict, as the authors release it (`vit_g_hybrid_pt_1200e_ssv2_ft.pth`: 40 layers of 1408).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from evals.features import exact, one_by_one, resized
from tools.checkpoint import file_hash, load_raw, load_strict
from tools.weights import weights_path

SIZE, FRAMES = 224, 16
HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}  # by width; a state dict does not tell


def load_videomae(path: str | Path | None = None, *, size: int = SIZE, heads: int | None = None) -> VideoMAEFeatures:
    """Read VideoMAE-v2 for `features(frames)`: uint8 b 16 h w c -> float32 b d.

    Args:
        path: a state dict, bare or under "model" or "module"; by default the named weights "videomae".
        size: side that frames are stretched to.
        heads: attention heads; by default those of the published width.

    Raises:
        ValueError: the file is missing, damaged or another network.
    """
    path = Path(path) if path else weights_path("videomae")
    state = load_raw(path)
    for key in ("model", "module"):
        state = state.get(key, state) if isinstance(state, dict) else {}
    patches, hidden = state.get("patch_embed.proj.weight"), state.get("blocks.0.mlp.fc1.weight")
    if patches is None or hidden is None or patches.ndim != 5:
        raise ValueError(f"{path} holds no VideoMAE: wanted patch_embed.proj.weight (d 3 t h w) and blocks.0...; "
                         f"give vit_g_hybrid_pt_1200e_ssv2_ft.pth")
    width, depth = len(patches), 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    if heads is None and width not in HEADS:
        raise ValueError(f"{path}: a VideoMAE of width {width} is not published; known widths: {', '.join(map(str, HEADS))}")
    with torch.device("meta"):
        net = VideoMAE(width, depth, heads or HEADS[width], len(hidden), tuple(patches.shape[2:]))
    net.to_empty(device="cpu")
    load_strict(net, {k: v.float() for k, v in state.items() if not k.startswith(("head.", "pos_embed"))}, str(path))
    return VideoMAEFeatures(net, path, size)


class VideoMAEFeatures:
    """VideoMAE with the preprocessing of the content-debiased FVD: frames stretched to 224x224, pixels in [0, 1]."""

    def __init__(self, net: VideoMAE, path: str | Path, size: int = SIZE):
        self.net, self.size, self.dim = net.eval().requires_grad_(False), size, net.fc_norm.normalized_shape[0]
        self.settings = {"network": f"VideoMAE-v2, {len(net.blocks)} layers of {self.dim}, mean token",
                         "weights": Path(path).name, "sha256": file_hash(path)[:12],
                         "resize": f"{size}x{size}, bilinear, stretched"}

    def features(self, frames: Tensor) -> Tensor:
        """Return the mean token of videos: uint8 b 16 h w c -> float32 b d."""
        if frames.shape[1] != FRAMES:
            raise ValueError(f"fvd_videomae takes videos of {FRAMES} frames, which is what VideoMAE was trained on, got "
                             f"{frames.shape[1]}; cut them, or leave fvd_videomae out of --metrics")
        self.net.to(frames.device)
        with exact():
            return torch.cat([self.net(resized(video, self.size, crop=False) / 255) for video in one_by_one(frames)])


class VideoMAE(nn.Module):
    """b 3 t h w -> mean over the tokens after the last layer: b d; names of the parts are those of the released weights."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, patch: tuple[int, ...]):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.patch_embed["proj"](x), "b d t h w -> b (t h w) d")
        tokens = tokens + positions(*tokens.shape[1:]).to(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.fc_norm(tokens.mean(1))


class Block(nn.Module):
    """Attention and MLP, each after a norm and beside a residual."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Attention(nn.Module):
    """Self-attention whose keys have no bias."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = rearrange(F.linear(x, self.qkv.weight, bias), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


def positions(count: int, width: int) -> Tensor:
    """Sine and cosine in turn at wavelengths of 10000^(2 (j // 2) / width): count width (Vaswani et al. 2017)."""
    rates = 10000.0 ** (-2 * (torch.arange(width, dtype=torch.float64) // 2) / width)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos()).float()
