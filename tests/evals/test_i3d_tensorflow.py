"""The converter of TensorFlow's I3D on a generated checkpoint."""

import numpy as np
import pytest
import torch

from evals.i3d import I3D, load_i3d
from evals.i3d_tensorflow import convert_i3d, from_tensorflow
from tests.golden.fill import GOLDEN, golden_state

# layers of a module in the two programs; branch 2 of Mixed_5b is misnamed in DeepMind's
LAYERS = {"b0": "Branch_0/Conv3d_0a_1x1", "b1a": "Branch_1/Conv3d_0a_1x1", "b1b": "Branch_1/Conv3d_0b_3x3",
          "b2a": "Branch_2/Conv3d_0a_1x1", "b2b": "Branch_2/Conv3d_0b_3x3", "b3b": "Branch_3/Conv3d_0b_1x1"}
KINDS = {"conv3d.weight": "conv_3d/w", "conv3d.bias": "conv_3d/b", "bn.bias": "batch_norm/beta",
         "bn.running_mean": "batch_norm/moving_mean", "bn.running_var": "batch_norm/moving_variance"}


def tensorflow_name(key):
    """The variable that TensorFlow has for one of our tensors, None where it has none."""
    part, _, rest = key.partition(".")
    layer, _, kind = rest.partition(".") if part.startswith("Mixed") else ("", "", rest)
    if kind not in KINDS:
        return None
    place = {"logits": "Logits/Conv3d_0c_1x1"}.get(part, part) + (f"/{LAYERS[layer]}" if layer else "")
    place = place.replace("Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3")
    return f"RGB/inception_i3d/{place}/{KINDS[kind]}"


@pytest.fixture(scope="module")
def state():
    state = golden_state(GOLDEN / "i3d_keys.json", gain=1.0)
    draw = torch.Generator().manual_seed(0)
    for key, value in state.items():  # TensorFlow's norms do not scale, and have means and variances
        if key.endswith("bn.weight"):
            value.fill_(1)
        elif key.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=draw) * 0.1)
        elif key.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=draw) + 0.1)
    return state


@pytest.fixture(scope="module")
def variables(state):
    found = {"global_step": np.int64(7), "Flow/inception_i3d/Conv3d_1a_7x7/conv_3d/w": np.zeros((7, 7, 7, 2, 64))}
    for key, value in state.items():
        if (name := tensorflow_name(key)) is None:
            continue
        array = value.numpy()
        if key.endswith("conv3d.weight"):
            array = array.transpose(2, 3, 4, 1, 0)
        elif ".bn." in key:
            array = array.reshape(1, 1, 1, 1, -1)
        found[name] = array
    return found


def test_every_variable_finds_its_place(variables, state):
    converted = from_tensorflow({f"{name}:0": array for name, array in variables.items()}, epsilon=1e-5)
    wanted = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert converted.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(converted[key], value), key


def test_the_norm_is_tensorflows(variables):
    # beta + (x - mean) / sqrt(variance + 1e-3), while our layer adds 1e-5.
    net = I3D().eval()
    net.load_state_dict(from_tensorflow(variables))
    part = "RGB/inception_i3d/Mixed_4b/Branch_2/Conv3d_0b_3x3/batch_norm/"
    x = torch.randn(1, 48, 2, 3, 3)
    beta, mean, variance = (torch.from_numpy(variables[part + leaf]).view(1, -1, 1, 1, 1)
                            for leaf in ("beta", "moving_mean", "moving_variance"))
    torch.testing.assert_close(net.Mixed_4b.b2b.bn(x), beta + (x - mean) / torch.sqrt(variance + 1e-3))


def test_a_converted_file_is_read(variables, tmp_path):
    np.savez(tmp_path / "tf.npz", **variables)
    path = convert_i3d(tmp_path / "tf.npz", tmp_path / "i3d.pt")
    weight = load_i3d(path).net.Mixed_5b.b2b.conv3d.weight
    array = variables["RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w"]
    assert weight[5, 3, 2, 1, 0] == array[2, 1, 0, 3, 5]


def test_an_incomplete_checkpoint_is_refused(variables, tmp_path):
    part = {name: array for name, array in variables.items() if "Logits" not in name}
    with pytest.raises(ValueError, match=r"TensorFlow checkpoint .* missing: logits.conv3d.weight"):
        from_tensorflow(part)
    with pytest.raises(ValueError, match=r"two variables are Conv3d_1a_7x7.conv3d.weight"):
        from_tensorflow({**variables, "old/RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w": np.zeros((7, 7, 7, 3, 64))})
    (tmp_path / "x.npz").write_text("no archive")
    with pytest.raises(ValueError, match="cannot be read as npz"):
        convert_i3d(tmp_path / "x.npz", tmp_path / "i3d.pt")
