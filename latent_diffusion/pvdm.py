"""Reader of PVDM's released U-Nets: sizes from key shapes, and the form `eps = net(x_t, t, past)`."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoencoder.planes import PlaneShape
from latent_diffusion.unet import PlanesUNet, UNetConfig
from tools.checkpoint import load_strict

PUBLISHED_SHAPE = PlaneShape(16, 32, 32)    # 16 frames of 256 x 256 in patches of 8; no key tells it
PUBLISHED = {"heads": 8, "norm_groups": 32}  # no key tells these either

# Applied in this order to a key without its prefixes.
RENAMES = [
    (r"^input_blocks\.0\.0\.", "conv_in."),
    (r"^input_blocks\.(\d+)\.", lambda m: f"down.{int(m[1]) - 1}.blocks."),    # 0 is conv_in
    (r"^input_attns\.(\d+)\.", lambda m: f"down.{int(m[1]) - 1}.mix."),        # 0 is the identity
    (r"^middle_block\.", "middle.blocks."),
    (r"^mid_attn\.", "middle.mix."),
    (r"^output_blocks\.(\d+)\.", r"up.\1.blocks."),
    (r"^output_attns\.(\d+)\.", r"up.\1.mix."),
    (r"^out\.0\.", "norm_out."),
    (r"^out\.2\.", "conv_out."),
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".emb."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".skip."),
    (r"\.proj_out\.", ".out."),
]


class PVDMUNet(nn.Module):
    """A released U-Net in PVDM's form. `cond`: the past clip's latent is on the input channels."""

    def __init__(self, net: PlanesUNet):
        super().__init__()
        self.net = net
        self.cond = net.in_channels == 2 * net.latent_channels

    @property
    def shape(self) -> PlaneShape:
        return self.net.shape

    def forward(self, x: Tensor, t: Tensor, past: Tensor | None = None) -> Tensor:
        """Predicted noise.

        Args:
            x: b c n, noisy latent, raw (PVDM does not normalise).
            t: b, step of the 1000-step process.
            past: b c n, latent of the clip before; None means that there is none.

        Returns:
            b c n.

        Raises:
            ValueError: a past is given to a model without condition.
        """
        if not self.cond:
            if past is not None:
                raise ValueError(f"this PVDM U-Net is unconditional ({self.net.in_channels} input channels): "
                                 "leave `past` out, or load a checkpoint that was trained with cond_model")
            return self.net(x, t)
        past = torch.zeros_like(x) if past is None else past
        return self.net(torch.cat([x, past], dim=1), t)


def is_pvdm_unet(state: Any) -> bool:
    """Whether this is a U-Net state dict of the PVDM release, in whatever wrapper."""
    needed = {"time_embed.0.weight", "input_blocks.0.0.weight", "mid_attn.qkv.weight", "out.2.weight"}
    return needed <= strip_prefixes(state).keys()


def read_pvdm_unet(state: Mapping[str, Any], shape: PlaneShape | None = None) -> PVDMUNet:
    """Build the U-Net that a released state dict belongs to, and load it strictly.

    Args:
        state: the content of the file; prefixes and a `{"state_dict": ...}` or `{"model": ...}` around it are undone.
        shape: token grid of a clip; PVDM's own (16 frames of 256 x 256) when left out.

    Raises:
        ValueError: the keys are not PVDM's, or do not fit together.
    """
    if not is_pvdm_unet(state):
        raise ValueError("not a PVDM U-Net: the state dict lacks time_embed, input_blocks, mid_attn or out")
    tensors = strip_prefixes(state)
    zeros = tensors.pop("zeros", None)          # PVDM's "no condition", b c n; here it is made when needed
    if shape is None:
        shape = PUBLISHED_SHAPE
        if zeros is not None and zeros.shape[-1] != shape.total:
            raise ValueError(f"this PVDM U-Net was made for {zeros.shape[-1]} latent positions, not for the "
                             f"published {shape.total}: pass shape=PlaneShape(t, h, w)")
    in_channels = tensors["input_blocks.0.0.weight"].shape[1]
    latent_channels = tensors["out.2.weight"].shape[0]
    if in_channels not in (latent_channels, 2 * latent_channels):
        raise ValueError(f"not a PVDM U-Net: it reads {in_channels} channels and writes {latent_channels}")
    with torch.device("meta"):                  # half a billion weights need no initial values
        net = PlanesUNet(infer_config(tensors), shape, latent_channels, in_channels)
    net.to_empty(device=tensors["out.2.weight"].device)
    load_strict(net, {our_key(key): our_tensor(key, value) for key, value in tensors.items()}, "PVDM U-Net")
    return PVDMUNet(net)


def strip_prefixes(state: Any) -> dict[str, Any]:
    """Undo `{"state_dict": ...}`, `{"model": ...}` and the prefixes `module.`, `model.`, `diffusion_model.`; else {}."""
    if not isinstance(state, Mapping):
        return {}
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    prefixes = re.compile(r"^(module\.|model\.|diffusion_model\.)+")
    return {prefixes.sub("", str(key)): value for key, value in state.items()}


def our_key(key: str) -> str:
    """Name in PlanesUNet of a release's key without prefixes."""
    for pattern, ours in RENAMES:
        key = re.sub(pattern, ours, key)
    return key


def our_tensor(key: str, value: Tensor) -> Tensor:
    """Attention projections are linear layers here, and convolutions of length 1 there."""
    return value.squeeze(-1) if key.endswith((".qkv.weight", ".proj_out.weight")) else value


def infer_config(tensors: Mapping[str, Tensor]) -> UNetConfig:
    """Width, levels, blocks and attention from key names and shapes, read off the way up.

    Every level has `res_blocks + 1` entries there; all but the outermost end in one that doubles the grid.
    """
    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in tensors)

    width = tensors["time_embed.0.weight"].shape[1]
    entries = 0
    while f"output_blocks.{entries}.0.in_layers.2.weight" in tensors:
        entries += 1
    ends = [i for i in range(entries) if has(rf"output_blocks\.{i}\.[12]\.in_layers\.")]
    levels = len(ends) + 1
    if entries == 0 or entries % levels:
        raise ValueError(f"not a PVDM U-Net: {entries} output_blocks for {levels} levels")
    per_level = entries // levels
    mult, attention = [], []
    for level in range(levels):
        first = (levels - 1 - level) * per_level
        mult.append(tensors[f"output_blocks.{first}.0.in_layers.2.weight"].shape[0] // width)
        if has(rf"output_blocks\.{first}\.1\.qkv\."):
            attention.append(2 ** level)
    return UNetConfig(width=width, mult=tuple(mult), res_blocks=per_level - 1, attention=tuple(attention),
                      **PUBLISHED)
