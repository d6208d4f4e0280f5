"""Converts I3D's TensorFlow variables (DeepMind's checkpoint or the TF-Hub module of the first FVD) to our state dict.

TensorFlow is not needed here; where it is, the variables become an npz by
    reader = tf.train.load_checkpoint(folder)
    np.savez("i3d.npz", **{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evals.i3d import build_i3d
from tools.checkpoint import save

EPSILON = 1e-3  # of TensorFlow's batch norms
_OWN = 1e-5     # of ours
_NAME = re.compile(r"(?:.*/)?RGB/inception_i3d/(?P<part>[^/:]+)"
                   r"(?:/(?P<branch>Branch_\d)/(?P<conv>Conv3d_0\w_\dx\d)|/Conv3d_0c_1x1)?"
                   r"/(?P<kind>conv_3d|batch_norm)/(?P<leaf>w|b|beta|moving_mean|moving_variance)(?::0)?")
_LEAVES = {"w": "conv3d.weight", "b": "conv3d.bias", "beta": "bn.bias", "moving_mean": "bn.running_mean",
           "moving_variance": "bn.running_var"}


def from_tensorflow(variables: Mapping[str, np.ndarray], *, epsilon: float = EPSILON) -> dict[str, Tensor]:
    """Return the state dict of `evals.i3d.I3D` that computes what TensorFlow does.

    Args:
        variables: name ("RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w", with or without ":0") -> array; others are left out.
        epsilon: what TensorFlow's batch norm adds to a variance. Ours adds 1e-5, so that the rest is put into the stored
            variances. With 1e-5 the variances stay as they are, which is how VideoGPT's file was made.

    Raises:
        ValueError: variables are missing or have other shapes.
    """
    state: dict[str, Tensor] = {}
    for name, array in variables.items():
        found = _NAME.fullmatch(name)
        if found is None:
            continue  # steps, moments of an optimizer, the network of optical flow
        key = f"{_part(found)}.{_LEAVES[found['leaf']]}"
        value = torch.from_numpy(np.array(array, np.float32))
        if found["leaf"] == "w":
            value = value.permute(4, 3, 0, 1, 2).contiguous()  # t h w in out -> out in t h w
        else:
            value = value.flatten()
        if found["leaf"] == "moving_variance":
            value = value + (epsilon - _OWN)
        if key in state:
            raise ValueError(f"two variables are {key}, one of them {name}; give those of one network only")
        state[key] = value
    for key in [key for key in state if key.endswith("bn.bias")]:
        state[key.replace("bn.bias", "bn.weight")] = torch.ones_like(state[key])  # TensorFlow's do not scale
    build_i3d(state, "the TensorFlow checkpoint")  # refuses what is not all of it
    return state


def convert_i3d(source: str | os.PathLike, out: str | os.PathLike, *, epsilon: float = EPSILON) -> Path:
    """Convert an npz of TensorFlow variables to a file that `load_i3d` reads; returns its path."""
    source, out = Path(source), Path(out)
    try:
        with np.load(source) as arrays:
            variables = dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{source} cannot be read as npz ({type(error).__name__}); write the TensorFlow variables with "
                         f"np.savez") from error
    state = from_tensorflow(variables, epsilon=epsilon)
    save(out, {"kind": "i3d", "state": state})
    return out


def _part(found: re.Match) -> str:
    """Mixed_4b/Branch_1/Conv3d_0b_3x3 -> Mixed_4b.b1b; Logits -> logits. In Mixed_5b both layers of branch 2 are called 0a."""
    if found["branch"] is None:
        return "logits" if found["part"] == "Logits" else found["part"]
    branch = found["branch"][-1]
    if branch == "0":
        return f"{found['part']}.b0"
    letter = "b" if branch == "3" or found["conv"].endswith("3x3") else "a"
    return f"{found['part']}.b{branch}{letter}"
