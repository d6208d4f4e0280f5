"""Reads the released autoencoders of PVDM: their state dict, under their names, becomes a model of ours.

What the released code does otherwise, and only models that are read here do too (option `released`):
its plane `yt` keeps t and w (our `tw`), its `xt` keeps t and h (our `th`); it appends a learned token last but
reads the output at position 0; and its frame rotary turns the two features of a pair by two angles.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from autoencoder.blocks import frame_frequencies, grid_scales
from autoencoder.model import AutoencoderConfig, TriplaneAutoencoder, build_autoencoder
from autoencoder.planes import PLANES

THEIR_PLANES = {"hw": "xy", "tw": "yt", "th": "xt"}

RENAMES = (  # our names -> theirs, applied one after the other
    (r"^embed\.", "encoder.to_patch_embedding."),
    (r"^to_pixels\.", "to_pixel.1."),
    (r"^to_latent\.", "pre_"),
    (r"^from_latent\.", "post_"),
    (r"^pools\.(..)\.query$", r"\1_token"),
    (r"^pools\.(..)\.position$", r"\1_pos_embedding"),
    (r"^pools\.(..)\.layers\.(\d+)\.attend\.", r"\1_quant_attn.layers.\2.0."),
    (r"^pools\.(..)\.layers\.(\d+)\.feed\.", r"\1_quant_attn.layers.\2.1."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.time\.", r"\1.layers.\2.0."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.space\.", r"\1.layers.\2.1."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.feed\.", r"\1.layers.\2.2."),
    (r"\.qkv\.", ".fn.to_qkv."),
    (r"\.out\.", ".fn.to_out.0."),
    (r"\.up\.", ".fn.net.0."),
    (r"\.down\.", ".fn.net.3."),
)
EMBED, TO_PIXEL = "encoder.to_patch_embedding.weight", "to_pixel.1.weight"
TRUNK_QKV, POOL_QKV = "encoder.layers.0.0.fn.to_qkv.weight", "xy_quant_attn.layers.0.0.fn.to_qkv.weight"
POOL_MLP = "xy_quant_attn.layers.0.1.fn.net.0.weight"
FRAME_ROTARY, GRID_ROTARY = "{}.frame_rot_emb.inv_freqs", "{}.image_rot_emb.scales"
THEIR_HEADS = 4  # of the pooling transformers, a literal in the released code that no shape tells


def released_key(key: str) -> str:
    """A parameter of TriplaneAutoencoder in the names of the release."""
    key = re.sub(r"(?<=\.)(hw|tw|th)\b", lambda plane: THEIR_PLANES[plane[0]], key)
    for ours, theirs in RENAMES:
        key = re.sub(ours, theirs, key)
    return key


def plain_state(state: Mapping) -> dict[str, Tensor]:
    """A state dict without the wrappers it may be saved in: {"state_dict": ...}, {"model": ...}, "module." ."""
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    return {re.sub(r"^(module\.)+", "", str(key)): value for key, value in state.items()}


def is_pvdm_autoencoder(state: Mapping) -> bool:
    """Tell PVDM's autoencoder from any other state dict by the names that only it has."""
    keys = plain_state(state)
    return EMBED in keys and "xy_token" in keys


def read_pvdm_autoencoder(state: Mapping) -> TriplaneAutoencoder:
    """Make the autoencoder that a released state dict belongs to, with every size read off its shapes.

    Raises:
        ValueError: not such a state dict; keys missing, unexpected or of another shape; or position tables
            that differ from the published formula, which is what the model computes with.
    """
    theirs = plain_state(state)
    if not is_pvdm_autoencoder(theirs):
        raise ValueError(f"not a PVDM autoencoder: no xy_token and {EMBED} among its {len(theirs)} keys "
                         f"(such as {', '.join(list(theirs)[:3])}); give a first-stage checkpoint of PVDM")
    net = build_autoencoder(pvdm_config(theirs))
    names = {ours: released_key(ours) for ours in net.state_dict()}
    tables = _tables(net)
    _check_keys(theirs, {*names.values(), *tables})
    for key, table in tables.items():
        if theirs[key].shape != table.shape or not torch.allclose(theirs[key].float(), table.float(), atol=1e-4):
            raise ValueError(f"PVDM autoencoder: {key} is not the published position table "
                             f"({table.numel()} values from {table.flatten()[0]:.4g}); its weights need code that is not here")
    net.load_state_dict({ours: _fitted(theirs[name], value, name)
                         for (ours, value), name in zip(net.state_dict().items(), names.values())})
    return net.eval()


def pvdm_config(state: Mapping[str, Tensor]) -> AutoencoderConfig:
    """The sizes of a released autoencoder, read off the shapes of its (unwrapped) state dict."""
    def size(key: str, axis: int) -> int:
        if key not in state or state[key].ndim <= axis:
            raise ValueError(f"PVDM autoencoder: {key} is missing or has no axis {axis}, so that its sizes are unknown")
        return state[key].shape[axis]

    channels, patch = size(TO_PIXEL, 0), size(TO_PIXEL, 2)
    head_dim = 2 * size(FRAME_ROTARY.format("encoder"), 0)
    t, h, w = (size(f"{THEIR_PLANES[plane]}_pos_embedding", 1) - 1 for plane in PLANES)  # each pools one axis
    return AutoencoderConfig(
        arch="pvdm", channels=channels, frames=t, resolution=h * patch if h == w else [h * patch, w * patch],
        patch=patch, latent_channels=size("pre_xy.weight", 0), in_channels=size(TO_PIXEL, 1),
        depth=_depth(state, "encoder"), heads=size(TRUNK_QKV, 0) // (3 * head_dim), head_dim=head_dim, tanh=True,
        options={"projection_depth": _depth(state, "xy_quant_attn"), "projection_heads": THEIR_HEADS,
                 "projection_mlp": size(POOL_MLP, 0), "released": True})


def _depth(state: Mapping[str, Tensor], stack: str) -> int:
    found = [int(m[1]) for key in state if (m := re.match(rf"{stack}\.layers\.(\d+)\.", key))]
    return max(found, default=-1) + 1


def _tables(net: TriplaneAutoencoder) -> dict[str, Tensor]:
    """The buffers of the release, which hold no learned value: made by formula here, so only compared."""
    dim = net.config.head_dim
    tables = {"coords": torch.linspace(-1, 1, net.config.frames)[:, None]}
    for trunk in ("encoder", "decoder"):
        tables[FRAME_ROTARY.format(trunk)] = frame_frequencies(dim)
        tables[GRID_ROTARY.format(trunk)] = grid_scales(dim)
    return tables


def _check_keys(state: Mapping[str, Tensor], wanted: set[str]) -> None:
    missing, unexpected = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or unexpected:
        raise ValueError(f"PVDM autoencoder: {len(missing)} keys are missing ({', '.join(missing[:5]) or 'none'}) and "
                         f"{len(unexpected)} unexpected ({', '.join(unexpected[:5]) or 'none'}); give a complete checkpoint")


def _fitted(theirs: Tensor, ours: Tensor, name: str) -> Tensor:
    """Their 1x1 convolutions are linear layers here: the same numbers without the two last axes."""
    shape = theirs.shape[:2] if name.startswith(("pre_", "post_")) and theirs.shape[2:] == (1, 1) else theirs.shape
    if shape != ours.shape:
        raise ValueError(f"PVDM autoencoder: {name} has shape {list(theirs.shape)}, but the sizes of the other keys "
                         f"make it {list(ours.shape)}")
    return theirs.reshape(shape).float()
