"""Checkpoints of the other systems: generated state dicts in their names and wrappings, and what info says of each."""

from collections import OrderedDict

import pytest
import torch
import yaml

from autoencoder.codec import load_autoencoder
from latent_diffusion.foreign import SYSTEMS, recognise
from latent_diffusion.info import info
from latent_diffusion.modelfile import load_diffusion
from tests.golden.fill import GOLDEN, golden_state
from tests.tiny import ROOT


def state(shapes, prefix=""):
    """A state dict with these names and shapes."""
    return OrderedDict((prefix + name, torch.zeros(shape)) for name, shape in shapes.items())


def total(*shape_lists):
    return sum(torch.Size(shape).numel() for shapes in shape_lists for shape in shapes.values())


# Learned tensors of small networks as the published code names them, and what it keeps beside as buffers.
MCVD = {"unet.all_modules.0.weight": (16, 4), "unet.all_modules.0.bias": (16,), "unet.all_modules.2.weight": (4, 30, 3, 3),
        "unet.all_modules.3.GroupNorm_0.Norm_0.weight": (4,), "unet.all_modules.9.NIN_0.W": (4, 4)}
MCVD_BUFFERS = {"betas": (10,), "alphas": (10,), "alphas_prev": (10,), "unet.sigmas": (10,)}
GUIDED = {"time_embed.0.weight": (16, 4), "time_embed.0.bias": (16,), "out.0.weight": (4,)}
RAMVID = GUIDED | {"input_blocks.0.0.weight": (4, 3, 3, 3, 3), "middle_block.1.qkv.weight": (12, 4, 1),
                   "out.2.weight": (3, 4, 3, 3, 3)}
ATTEND = "middle_block.1.temporal_attention"
FDM = GUIDED | {"input_blocks.0.0.weight": (4, 4, 3, 3), "out.2.weight": (3, 4, 3, 3), f"{ATTEND}.qkv.weight": (12, 4),
                f"{ATTEND}.rpe_k.rpe_net.embed_distances.weight": (4, 3)}
MODULATE = "unet.input_blocks.1.0.emb_layers"
MOTION = {"encoder.input_blocks.0.0.weight": (4, 3, 3, 3), "unet.input_blocks.0.0.weight": (4, 5, 3, 3),
          f"{MODULATE}.linear_0.weight": (4, 4), "spynet.basic_module.0.basic_module.0.conv.weight": (2, 8, 7, 7)}
MOTION_BUFFERS = {"spynet.mean": (1, 3, 1, 1), "spynet.std": (1, 3, 1, 1), f"{MODULATE}.coords": (2, 8, 8, 2),
                  f"{MODULATE}.new_coords": (10, 8, 1, 1, 2)}
CONTENT = GUIDED | {"input.input": (1, 3, 8, 8), "input_blocks.0.0.weight": (4, 6, 3, 3), "out.2.weight": (6, 4, 3, 3)}
OPTIMIZER = {"state": {0: {"step": 7, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}

FILES = {  # the system; what its trainer writes; its step, where the file tells it; learned numbers
    "mcvd": ("MCVD", [state(MCVD | MCVD_BUFFERS, "module."), OPTIMIZER, 3, 700000, state(MCVD)], 700000, total(MCVD)),
    "mcvd without ema": ("MCVD", [state(MCVD | MCVD_BUFFERS, "module."), OPTIMIZER, 3, 50000], 50000, total(MCVD)),
    "mcvd weights": ("MCVD", state(MCVD | MCVD_BUFFERS), None, total(MCVD)),
    "ramvid": ("RaMViD", state(RAMVID), None, total(RAMVID)),
    "fdm": ("FDM", {"state_dict": state(FDM), "config": {"dataset": "minerl", "max_frames": 20}, "step": 550000}, 550000,
            total(FDM)),
    "vidm motion": ("VIDM motion", {"iters": 400000, "state_dict": state(MOTION | MOTION_BUFFERS, "module."),
                                    "ema_state_dict": state(MOTION | MOTION_BUFFERS, "module."), "optimizer": OPTIMIZER},
                    400000, total(MOTION)),
    "vidm content": ("VIDM content", {"iters": 1000, "state_dict": state(CONTENT, "module.")}, 1000, total(CONTENT)),
}


@pytest.fixture(params=FILES)
def foreign(request, tmp_path):
    """A file as one of the systems writes it, and what is true of it."""
    system, payload, step, learned = FILES[request.param]
    torch.save(payload, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt", system, step, learned


def test_info_names_the_system_its_step_and_its_size(foreign, capsys):
    file, system, step, learned = foreign
    info(model=str(file), weights="ema")
    facts = yaml.safe_load(capsys.readouterr().out)
    assert facts["kind"].startswith(f"{system} ") and "pixel space" in facts["kind"]
    assert (facts.get("step"), facts["parameters"]) == (step, learned)


def test_why_it_does_not_load_is_one_line_that_leads_to_its_recipes(foreign, capsys):
    file, system, *_ = foreign
    info(model=str(file), weights="ema")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("loads: ")]
    assert line.startswith("loads: no, its network denoises ") and "latents" in line
    folder = line.split()[-1]
    assert folder == f"configs/recipes/{system.split()[0].lower()}" and (ROOT / folder).is_dir()


def test_what_needs_such_a_model_points_to_info(foreign):
    file = foreign[0]
    for load in (load_diffusion, load_autoencoder):
        with pytest.raises(ValueError, match=f"neither .* nor PVDM's; look at it with --exp info --model {file}"):
            load(file)


def test_a_file_is_of_one_system_only():
    for system, payload, *_ in FILES.values():
        weights = payload[0] if isinstance(payload, list) else payload.get("state_dict", payload)
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
        assert [s.kind.startswith(system) for s in SYSTEMS if s.fits(weights)] == [True]


@pytest.mark.parametrize("name", ["pvdm_unet", "pvdm_unet_uncond", "pvdm_autoencoder"])
def test_pvdm_is_none_of_them(name):
    assert recognise(golden_state(GOLDEN / f"{name}_keys.json", gain=1.0)) is None


@pytest.mark.parametrize("other", [
    GUIDED | {"input_blocks.0.0.weight": (4, 3, 3, 3), "out.2.weight": (3, 4, 3, 3)},  # a guided diffusion of images
    {"all_modules.0.weight": (4, 4)},                                                 # a score network of images
    {"encoder.input_blocks.0.0.weight": (4, 3, 3, 3)},                                # half of VIDM's
])
def test_what_is_only_alike_is_not_taken_for_one(other, tmp_path):
    assert recognise(state(other)) is None
    torch.save(state(other), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is no model that this project reads"):
        info(model=str(tmp_path / "other.pt"), weights="ema")
