"""Reads the released autoencoders of PVDM: their state dict, under their names, becomes a model of ours.

Two of its plane names lie: `yt` keeps t and w (our `tw`), `xt` keeps t and h (our `th`). Two habits of its
code are kept for its weights only (option `released` of the model): a learned token is appended last but the
output is read at position 0, and the frame rotary turns the two features of a pair by different angles.
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
    """A state dict without its wrappings: {"state_dict": ...}, {"model": ...}, "module." before the names."""
    for wrapper in ("state_dict", "model"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    return {re.sub(r"^(module\.)+", "", str(key)): value for key, value in state.items() if isinstance(value, Tensor)}


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
    tables = position_tables(net.config)
    _check_keys(theirs, {*names.values(), *tables})
    _check_tables(theirs, tables)
    net.load_state_dict({ours: _fitted(theirs[name], value, name)
                         for (ours, value), name in zip(net.state_dict().items(), names.values())})
    return net.eval()


def pvdm_config(state: Mapping[str, Tensor]) -> AutoencoderConfig:
    """The sizes of a released autoencoder, read off the shapes of its (unwrapped) state dict."""
    def size(key: str, axis: int) -> int:
        if key not in state or state[key].ndim <= axis:
            raise ValueError(f"PVDM autoencoder: {key} is missing or has no axis {axis}, so its sizes are "
                             "unknown; give a complete first-stage checkpoint")
        return state[key].shape[axis]

    patch, head_dim = size(TO_PIXEL, 2), 2 * size(FRAME_ROTARY.format("encoder"), 0)
    t, h, w = (size(f"{THEIR_PLANES[plane]}_pos_embedding", 1) - 1 for plane in PLANES)  # each pools one axis
    inner = size(TRUNK_QKV, 0) // 3
    return AutoencoderConfig(
        arch="pvdm", channels=size(TO_PIXEL, 0), frames=t, patch=patch,
        resolution=h * patch if h == w else [h * patch, w * patch],
        latent_channels=size("pre_xy.weight", 0), in_channels=size(TO_PIXEL, 1),
        depth=_depth(state, "encoder"), heads=inner // head_dim, head_dim=head_dim, tanh=True,
        options={"projection_depth": _depth(state, "xy_quant_attn"), "projection_heads": THEIR_HEADS,
                 "projection_mlp": size(POOL_MLP, 0), "released": True})


def position_tables(config: AutoencoderConfig) -> dict[str, Tensor]:
    """The buffers of the release under its names; nothing is learned in them, so they are only compared."""
    tables = {"coords": torch.linspace(-1, 1, config.frames, dtype=torch.float64)[:, None]}
    for trunk in ("encoder", "decoder"):
        tables[FRAME_ROTARY.format(trunk)] = frame_frequencies(config.head_dim)
        tables[GRID_ROTARY.format(trunk)] = grid_scales(config.head_dim)
    return tables


def _depth(state: Mapping[str, Tensor], stack: str) -> int:
    found = [int(m[1]) for key in state if (m := re.match(rf"{stack}\.layers\.(\d+)\.", key))]
    return max(found, default=-1) + 1


def _check_keys(state: Mapping[str, Tensor], wanted: set[str]) -> None:
    missing, unexpected = sorted(wanted - set(state)), sorted(set(state) - wanted)
    if missing or unexpected:
        raise ValueError(f"PVDM autoencoder: {_some(missing)} missing, {_some(unexpected)} unexpected; "
                         "give a complete first-stage checkpoint")


def _some(keys: list[str]) -> str:
    return f"{len(keys)} keys" + (f" ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})" if keys else "")


def _check_tables(state: Mapping[str, Tensor], tables: Mapping[str, Tensor]) -> None:
    for key, table in tables.items():
        given = state[key].to(table)
        if given.shape != table.shape or not torch.allclose(given, table, rtol=0, atol=1e-4):
            raise ValueError(f"PVDM autoencoder: {key} is not the position table {list(table.shape)} that the "
                             "published code makes; weights trained with another one cannot be read")


def _fitted(theirs: Tensor, ours: Tensor, name: str) -> Tensor:
    """A released tensor in our shape: 1x1 convolutions to and from the latent are linear layers here."""
    is_conv = name.startswith(("pre_", "post_")) and theirs.shape[2:] == (1, 1)
    fitted = theirs[..., 0, 0] if is_conv else theirs
    if fitted.shape != ours.shape:
        raise ValueError(f"PVDM autoencoder: {name} has shape {list(theirs.shape)}, but the other keys imply "
                         f"{list(ours.shape)}; give an unmodified checkpoint")
    return fitted
