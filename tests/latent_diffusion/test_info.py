"""The command info: what it says of every kind of model file."""

import hashlib

import pytest
import torch
import yaml
from fakes import autoencoder, autoencoder_payload, diffusion_config, diffusion_stage, first_config

from autoencoder.model import AutoencoderConfig, build_autoencoder
from autoencoder.pvdm import position_tables, released_key
from evals.carla_map import TOWN01
from evals.carla_model import KIND, CarlaNet
from latent_diffusion.info import info
from tests.golden.fill import GOLDEN, golden_state
from tools import checkpoint
from tools.modelfile import to_safetensors

STATISTICS = {"latent_mean": torch.tensor([[0.123449, 0, 0, 0]] * 3), "latent_std": torch.full((3, 4), 1.5)}


def told(capsys, model, weights="ema"):
    """What the command prints, as read from its YAML."""
    info(model=str(model), weights=weights)
    printed = capsys.readouterr()
    assert not printed.err
    return yaml.safe_load(printed.out)


def learnable(net):
    return sum(p.numel() for name, p in net.named_parameters())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """An autoencoder's file, and its network."""
    net, file = autoencoder(first_config()), tmp_path_factory.mktemp("first") / "model.pth"
    checkpoint.save(file, autoencoder_payload(net, **STATISTICS))
    return file, net


def test_an_autoencoder(first, capsys):
    file, net = first
    facts = told(capsys, file)
    assert (facts["kind"], facts["step"], facts["weights"]) == ("autoencoder", 7, "ema")
    assert facts["parameters"] == learnable(net)
    assert facts["latent"] == {"channels": 4, "t": 4, "h": 4, "w": 4, "positions": 3 * 4 * 4}
    assert facts["latent_mean"] == [[0.1234, 0, 0, 0]] * 3 and facts["latent_std"] == [[1.5] * 4] * 3
    assert AutoencoderConfig(**facts["config"]) == net.config


def test_a_file_is_named_and_its_bytes_and_weights_are_told_apart(first, tmp_path, capsys):
    file, net = first
    facts = told(capsys, file)
    assert facts["file"] == str(file) and facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts["weights_hash"] == checkpoint.state_hash(net.state_dict())
    checkpoint.save(tmp_path / "copy.pth", autoencoder_payload(net))
    copy = told(capsys, tmp_path / "copy.pth")
    assert copy["weights_hash"] == facts["weights_hash"] and copy["sha256"] != facts["sha256"]


@pytest.mark.parametrize("sees", [["past"], []])
def test_a_diffusion_model_and_which_of_its_weights(tmp_path, capsys, sees):
    stage = diffusion_stage(diffusion_config("unet.mult=[1]", "unet.attention=[1]", f"condition.sees={sees}"))
    with torch.no_grad():  # away from the average
        next(stage.net.parameters()).add_(1)
    stage.export(5, tmp_path, "last")
    raw, averaged = told(capsys, tmp_path, "raw"), told(capsys, tmp_path)
    assert (raw["kind"], raw["step"], raw["sees"], raw["autoencoder_inside"]) == ("diffusion", 5, sees, True)
    assert raw["parameters"] == averaged["parameters"] == learnable(stage.net)
    assert (raw["weights"], averaged["weights"]) == ("raw", "ema")
    assert raw["weights_hash"] == checkpoint.state_hash(stage.net.state_dict()) != averaged["weights_hash"]
    assert raw["config"]["unet"]["mult"] == [1]


def test_a_step_checkpoint_holds_either_weights(tmp_path, capsys):
    stage = diffusion_stage(diffusion_config("unet.mult=[1]", "unet.attention=[1]"))
    file = checkpoint.step_path(tmp_path, 6)
    checkpoint.save(file, {"step": 6, "stage": stage.state()})
    facts = told(capsys, file, "raw")
    assert (facts["kind"], facts["step"], facts["weights"]) == ("diffusion", 6, "raw")


def test_safetensors_are_told_as_the_model_that_they_hold(first, tmp_path, capsys):
    stage = diffusion_stage(diffusion_config("unet.mult=[1]", "unet.attention=[1]"))
    stage.export(5, tmp_path, "last")
    for model in (first[0], tmp_path):
        out = to_safetensors(model, tmp_path / "model.safetensors")
        theirs, ours = told(capsys, out), told(capsys, model)
        assert (theirs.pop("container"), ours.pop("container")) == ("safetensors", "torch")
        for facts in (theirs, ours):
            del facts["file"], facts["sha256"]
        assert theirs == ours


@pytest.mark.parametrize("name, conditional", [("pvdm_unet", True), ("pvdm_unet_uncond", False)])
def test_a_released_unet(tmp_path, capsys, name, conditional):
    state = golden_state(GOLDEN / f"{name}_keys.json", gain=1.0)
    torch.save(state, tmp_path / "released.pth")
    facts = told(capsys, tmp_path / "released.pth")
    assert "PVDM U-Net" in facts["kind"] and facts["conditional"] == conditional
    assert facts["parameters"] == sum(value.numel() for key, value in state.items() if not key.endswith("zeros"))
    assert "step" not in facts and "config" not in facts  # it tells none


def test_a_released_autoencoder(tmp_path, capsys):
    options = {"projection_depth": 1, "projection_heads": 4, "projection_mlp": 16, "released": True}
    config = AutoencoderConfig(channels=16, frames=4, resolution=16, patch=4, depth=1, heads=2, head_dim=8, options=options)
    net = build_autoencoder(config)
    state = {released_key(key): value[..., None, None] if key.startswith(("to_latent", "from_latent")) and value.ndim == 2
             else value for key, value in net.state_dict().items()} | position_tables(config)
    torch.save({"state_dict": state}, tmp_path / "released.pth")
    facts = told(capsys, tmp_path / "released.pth")
    assert "PVDM autoencoder" in facts["kind"] and facts["parameters"] == learnable(net)
    assert facts["latent"] == {"channels": 4, "t": 4, "h": 4, "w": 4, "positions": 48}
    assert facts["latent_mean"] is None and "step" not in facts


@pytest.fixture
def carla(tmp_path):
    """A run of --exp carla: the last weights and the best ones, and a step checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CarlaNet("small")
    common = {"kind": KIND, "config": {"arch": "small", "size": [16, 16], "map": {}}, "step": 3, "extra": {}}
    for name, which in (("model_last.pth", "raw"), ("model_best.pth", "best")):
        checkpoint.save(tmp_path / name, common | {"state": net.state_dict(), "weights": which})
    checkpoint.save(checkpoint.step_path(tmp_path, 3), {"step": 3, "stage": common | {"net": net.state_dict()}})
    return tmp_path, net


def test_a_run_of_carla_stands_for_its_best_weights_as_it_keeps_no_averages(carla, capsys):
    folder, net = carla
    facts = told(capsys, folder)
    assert "CARLA" in facts["kind"] and facts["file"] == str(folder / "model_best.pth") and facts["weights"] == "best"
    assert facts["parameters"] == learnable(net) and facts["weights_hash"] == checkpoint.state_hash(net.state_dict())
    assert facts["config"]["arch"] == "small" and facts["cells"] == TOWN01.count
    (folder / "model_best.pth").unlink()
    assert told(capsys, folder)["weights"] == told(capsys, checkpoint.step_path(folder, 3))["weights"] == "raw"


def test_averages_that_are_missing_are_still_missed_elsewhere(first, tmp_path):
    checkpoint.save(tmp_path / "model_last.pth", autoencoder_payload(first[1]))
    with pytest.raises(ValueError, match="use --weights raw"):
        info(model=str(tmp_path), weights="ema")


def test_another_file_is_refused_with_what_it_holds(tmp_path):
    torch.save({f"layer{i}": torch.zeros(1) for i in range(9)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is no model .*first keys: layer0, layer1, layer2, layer3, layer4\)"):
        info(model=str(tmp_path / "other.pth"), weights="ema")


def test_numbered_tensors_are_refused_too(tmp_path):
    torch.save({0: torch.zeros(1)}, tmp_path / "numbered.pth")
    with pytest.raises(ValueError, match="is no model"):
        info(model=str(tmp_path / "numbered.pth"), weights="ema")


def test_a_model_must_be_named():
    with pytest.raises(ValueError, match="--model MODEL"):
        info(model=None, weights="ema")
