"""What a path given as a model stands for."""

import pytest
import torch
from torch import nn

from tools import checkpoint
from tools.ema import Ema, EmaConfig
from tools.modelfile import WEIGHTS, locate, read_model, to_safetensors, write_models


@pytest.fixture
def run(tmp_path):
    """A run folder with all its model files, whose averages differ from its weights."""
    net = nn.Linear(2, 1)
    ema = Ema(net, EmaConfig(decays=(0.5,), warmup=False))
    with torch.no_grad():
        net.weight += 1
    ema.update(net, 0)
    common = {"kind": "toy", "config": {"width": 2}, "step": 9, "extra": {"mean": torch.zeros(1)}}
    for which in ("last", "best"):
        write_models(tmp_path, which, net, ema, common)
    stage = {"kind": "toy", "config": {"width": 2}, "net": net.state_dict(), "ema_weights": ema.weights(), "extra": {}}
    checkpoint.save(checkpoint.step_path(tmp_path / "checkpoints", 9), {"step": 9, "stage": stage})
    return tmp_path, net.state_dict(), ema.weights()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_run_folder_stands_for_the_weights_asked_for(run, weights):
    folder, raw, ema = run
    file = read_model(folder, weights)
    assert (file.kind, file.config, file.step, file.weights) == ("toy", {"width": 2}, 9, weights)
    wanted = raw if weights == "raw" else ema
    assert all(torch.equal(file.state[key], value) for key, value in wanted.items())
    assert not torch.equal(raw["weight"], ema["weight"])


def test_a_file_is_what_it_is(run):
    assert read_model(run[0] / "model_last.pth").weights == "raw"  # whatever is asked of folders
    assert read_model(str(run[0] / "model_best.pth"), "raw").weights == "best"


def test_a_step_checkpoint_holds_both_weights(run):
    folder, raw, ema = run
    step = folder / "checkpoints" / "step-00000009.pt"
    assert torch.equal(read_model(step, "raw").state["weight"], raw["weight"])
    assert torch.equal(read_model(step).state["weight"], ema["weight"]) and read_model(step).step == 9
    with pytest.raises(ValueError, match="no best weights"):
        read_model(step, "best")


def test_a_folder_may_be_moved(run, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "renamed"
    run[0].rename(moved)
    assert read_model(moved).step == 9


def test_foreign_files_come_as_they_are(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "foreign.pth")
    file = read_model(tmp_path / "foreign.pth")
    assert file.kind == "foreign" and file.weights == "foreign" and torch.equal(file.state["weight"], torch.ones(2))


def test_a_list_of_states_comes_by_its_places(tmp_path):
    torch.save([{"weight": torch.ones(2)}, {"lr": 0.1}, 7], tmp_path / "states.pt")
    file = read_model(tmp_path / "states.pt")
    assert file.kind == "foreign" and list(file.state) == ["0", "1", "2"]
    assert torch.equal(file.state["0"]["weight"], torch.ones(2)) and file.state["2"] == 7


@pytest.mark.parametrize("weights", WEIGHTS)
def test_safetensors_stand_for_the_same_model(run, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model.safetensors"
    assert to_safetensors(run[0], out, weights) == out
    wanted, got = read_model(run[0], weights), read_model(out)
    assert got[1:3] + got[4:6] == wanted[1:3] + wanted[4:6]  # kind, config; step, weights
    torch.testing.assert_close([got.state, got.extra], [dict(wanted.state), wanted.extra], rtol=0, atol=0)


@pytest.mark.parametrize("nested", [False, True])
def test_a_released_state_becomes_bare_safetensors(tmp_path, nested):
    state = {"weight": torch.ones(2)}
    torch.save({"state_dict": state} if nested else state, tmp_path / "foreign.pth")
    file = read_model(to_safetensors(tmp_path / "foreign.pth", tmp_path / "foreign.safetensors"))
    assert file.kind == "foreign" and torch.equal(file.state["weight"], torch.ones(2))


def test_what_safetensors_cannot_be_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"end in \.safetensors, got .*model\.pth"):
        to_safetensors(run[0], tmp_path / "model.pth")
    torch.save({"weight": torch.ones(2), "lr": 0.1}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"lr \(float\)"):
        to_safetensors(tmp_path / "foreign.pth", tmp_path / "foreign.safetensors")


def test_what_is_no_model_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="no model at"):
        locate(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="ema, raw, best"):
        locate(run[0], "emma")
    (run[0] / "ema_model_last.pth").unlink()
    with pytest.raises(ValueError, match="use --weights raw"):
        locate(run[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no finished or saved run"):
        locate(tmp_path / "empty")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        read_model(tmp_path / "list.pth")
    torch.save({"format": "triplane-video/99"}, tmp_path / "later.pth")
    with pytest.raises(ValueError, match="triplane-video/99"):
        read_model(tmp_path / "later.pth")
    (tmp_path / "damaged.pth").write_bytes((run[0] / "model_last.pth").read_bytes()[:300])
    with pytest.raises(ValueError, match="damaged"):
        read_model(tmp_path / "damaged.pth")
