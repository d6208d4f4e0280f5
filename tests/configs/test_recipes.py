"""The recipes: every file loads and is used, builds its networks, and says what was published."""

import re

import pytest
import torch

from autoencoder.model import build_autoencoder
from latent_diffusion.example import ExampleMaker
from latent_diffusion.masks import fdm_sets
from tests.recipes import (
    FILES,
    RECIPES,
    SCHEMAS,
    SYSTEMS,
    TEXT,
    TOLD,
    config,
    drawn,
    jobs_of,
    millions,
    name_of,
    of,
    recipe,
    trained,
    trained_on,
)
from tools.ema import Ema

# --- files ---------------------------------------------------------------------------------------------------

def test_there_is_a_folder_for_each_system():
    assert {path.name for path in RECIPES.iterdir() if path.is_dir()} == {*SYSTEMS, "common"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_loads(file):
    assert isinstance(config(name_of(file)), SCHEMAS[file.stem.split("_")[-1]])


def test_every_file_is_used_by_a_command_or_extended():
    said = {name_of(value) for t in TOLD for value in (t.args.pretrain_config, t.args.diffusion_config) if value}
    extended = set()
    for file in FILES:
        base = re.search(r"^extends: (.+)$", file.read_text(), re.M)
        extended |= {(file.parent / base[1]).resolve()} if base else set()
    unused = [name_of(file) for file in FILES if name_of(file) not in said and file.resolve() not in extended]
    assert not unused


@pytest.mark.parametrize("diffusion, autoencoder", trained_on().items())
def test_a_diffusion_takes_the_clips_of_its_autoencoder(diffusion, autoencoder):
    first, second = config(autoencoder).data, config(diffusion).data
    assert (first.frames, first.size, first.channels) == (second.frames, second.size, second.channels)
    for key in ("name", "fold", "stride", "resize", "options"):
        assert getattr(first, key) == getattr(second, key)


@pytest.mark.parametrize("diffusion, autoencoder", trained_on().items())
def test_networks_build_and_a_latent_is_smaller_than_its_clip(diffusion, autoencoder):
    first, (net, denoiser) = config(autoencoder), trained(diffusion)
    assert next(net.parameters()).is_meta and next(denoiser.parameters()).is_meta
    assert first.model.latent_channels * net.shape.total * 5 < torch.Size(first.model.clip_shape).numel()


@pytest.mark.parametrize("file", [file for file in FILES if file.stem.endswith("autoencoder")], ids=name_of)
def test_every_autoencoder_builds(file):
    with torch.device("meta"):
        net = build_autoencoder(config(name_of(file)).model)
    assert all(p.is_meta for p in net.parameters())


# --- what was published --------------------------------------------------------------------------------------

PARAMETERS = {"mcvd/smmnist": 27.9, "mcvd/kth_prediction": 62.8, "mcvd/bair": 251.2, "mcvd/cityscapes": 262.1,
              "mcvd/ucf101": 565.0, "fdm/carla": 80.4, "fdm/mazes": 116.0, "pvdm/ucf101_large": 528.3}


@pytest.mark.parametrize("name, published", PARAMETERS.items())
def test_networks_are_as_large_as_the_published_ones(name, published):
    assert millions(trained(f"{name}_diffusion")[1]) == pytest.approx(published, rel=0.1)


# learning rate, warm-up, weight decay, clipped norm, average, clips an update, last level's beta
OPTIMA = {
    "mcvd/smmnist": (2e-4, 1000, 0, 1.0, 0.999, 64, 0.02), "mcvd/kth": (2e-4, 5000, 0, 1.0, 0.999, 64, 0.02),
    "mcvd/bair": (1e-4, 5000, 0, 1.0, 0.999, 64, 0.02), "mcvd/cityscapes": (1e-4, 5000, 0, 1.0, 0.999, 32, 0.02),
    "mcvd/ucf101": (1e-4, 5000, 0, 1.0, 0.999, 32, 0.02), "ramvid/bair": (2e-5, 0, 0, 1.0, 0.9999, 4, 0.02),
    "ramvid/kinetics600": (2e-5, 0, 0, 1.0, 0.9999, 8, 0.02), "ramvid/ucf101": (2e-5, 0, 0, 1.0, 0.9999, 8, 0.02),
    "fdm/carla": (1e-4, 0, 0, None, 0.9999, 2, 0.02), "vidm/clevrer": (2e-5, 0, 0.01, 1.0, 0.999, 48, 0.02),
    "vidm/clevrer_content": (2e-5, 0, 0.01, 1.0, 0.999, 48, 0.02),
    "pvdm/ucf101_large": (1e-4, 0, 0.01, None, 0.999996, 64, 0.0195)}


@pytest.mark.parametrize("name, published", OPTIMA.items())
def test_rates_averages_and_schedules_are_the_published_ones(name, published):
    cfg = config(f"{name}_diffusion")
    assert (cfg.optim.lr, cfg.optim.warmup, cfg.optim.weight_decay, cfg.optim.clip_norm, cfg.ema.decays[0],
            cfg.loop.batch_size, cfg.schedule.betas[1]) == published
    assert (cfg.schedule.size, cfg.process.parametrisation, cfg.optim.schedule) == (1000, "eps", "constant")


# frames past, current and future, and the probabilities that past and future are hidden
BLOCKS = {"smmnist": (5, 5, 5, 0.5, 0.5), "kth": (5, 5, 5, 0.5, 0.5), "kth_prediction": (10, 5, 0, 0.0, 0.5),
          "bair": (2, 5, 2, 0.5, 0.5), "bair_past1": (1, 5, 0, 0.5, 0.5), "cityscapes": (2, 5, 2, 0.5, 0.5),
          "ucf101": (4, 4, 4, 0.5, 0.5)}


@pytest.mark.parametrize("name, blocks", BLOCKS.items())
def test_mcvds_blocks_are_hidden_and_shown_as_a_whole(name, blocks):
    past, current, future, p_past, p_future = blocks
    total = past + current + future
    cfg = config(f"mcvd/{name}_diffusion")
    assert (cfg.data.frames, cfg.mask["p_past"], cfg.mask.get("p_future", 0.5)) == (total, p_past, p_future)
    before, after = frozenset(range(past)), frozenset(range(past + current, total))
    possible = {b | a for b in ({frozenset(), before} if p_past else {before}) for a in (frozenset(), after)}
    assert drawn(cfg) == possible


@pytest.mark.parametrize("name, p_u", [("kinetics600", 0.25), ("bair", 0.25), ("ucf101", 0.75)])
def test_ramvid_gives_four_frames_at_the_most(name, p_u):
    cfg = config(f"ramvid/{name}_diffusion")
    assert {len(known) for known in drawn(cfg)} == {0, 1, 2, 3, 4}
    assert cfg.mask["p_u"] == p_u and cfg.data.frames == (20 if name == "bair" else 16)


def test_the_averages_of_pvdm_are_those_of_its_code():
    # there: every 25 updates by min(0.9999, (1 + n) / (10 + n)) with n averages made before
    cfg = config("pvdm/ucf101_large_diffusion").ema
    ema = Ema(torch.nn.Linear(1, 1), cfg)
    for averages in (400, 4000, 34000):  # of 850,000 updates
        step = 25 * averages
        ours = ema.decay(cfg.decays[0], step) ** cfg.every
        theirs = min(0.9999, (1 + averages) / (10 + averages))
        assert 1 - ours == pytest.approx(1 - theirs, rel=0.05)


# --- FDM's windows ---------------------------------------------------------------------------------------------

FDM = ("carla", "mazes", "minerl")
LENGTHS = {"carla": 1000, "mazes": 300, "minerl": 500}  # frames of every video


class OnlyShapes:
    """A codec as far as the drawing of windows looks at it."""
    def __init__(self, condition):
        self.frames, self.channels, self.shape = condition.frames, condition.channels, condition.shape

    def encode(self, clip):
        return clip.new_zeros(len(clip), self.channels, self.shape.total)


def trained_windows(name, count=600):
    """Of windows that training draws: for each the clips that are there, True where one is known as a whole."""
    cfg, condition = config(f"fdm/{name}_diffusion"), trained(f"fdm/{name}_diffusion")[1].condition
    maker = ExampleMaker(OnlyShapes(condition), condition, cfg.mask, cfg.train)
    frames = torch.zeros(1, 1, 1, 1, 1, dtype=torch.uint8).expand(count, condition.stretch, 1, 1, 1)
    context = maker.make(frames, torch.arange(count), "train").context
    for whole, there, start in zip(context.whole, context.there, context.start):
        order = start[there].argsort()
        yield whole[there][order].tolist()


def sides(clips):
    """Where the known clips of a window lie to those that are made."""
    known, made = ([i for i, whole in enumerate(clips) if whole == wanted] for wanted in (True, False))
    if not known:
        return "none"
    return "before" if max(known) < min(made) else "after" if min(known) > max(made) else "both"


@pytest.mark.parametrize("name", FDM)
def test_fdms_windows_hold_twenty_frames_of_the_whole_video(name):
    condition = trained(f"fdm/{name}_diffusion")[1].condition
    assert condition.slots * condition.frames == 20 and condition.stretch == LENGTHS[name]


def test_the_shares_of_fdms_windows_are_those_that_are_told():
    told = re.search(r"of 600 windows drawn for CARLA ([\d.]+) % hold a whole known clip, ([\d.]+) % before, ([\d.]+) % after, "
                     r"([\d.]+) %", TEXT)
    windows = [sides(clips) for clips in trained_windows("carla", count=600)]
    found = [1 - windows.count("none") / len(windows), *(windows.count(s) / len(windows) for s in ("before", "after", "both"))]
    assert [float(part) / 100 for part in told.groups()] == pytest.approx(found, abs=0.0006)


@pytest.mark.parametrize("name", FDM)
def test_fdms_windows_are_drawn_by_its_own_rule(name):
    # The rule itself, on so many clips as a video has: how often nothing is given, and how many clips are made.
    assert config(f"fdm/{name}_diffusion").mask == {"name": "fdm"}
    windows, rng = list(trained_windows(name, count=400)), torch.Generator().manual_seed(0)
    sets = [fdm_sets(LENGTHS[name] // 5, lambda: float(torch.rand((), generator=rng)), 4) for _ in range(2000)]
    nothing = sum(not observed.any() for observed, _ in sets) / 2000
    assert sum(not any(clips) for clips in windows) / 400 == pytest.approx(nothing, abs=0.08)  # 3.5 sigma of the two
    made = sum(int(made.sum()) for _, made in sets) / 2000
    assert sum(clips.count(False) for clips in windows) / 400 == pytest.approx(made, abs=0.25)


@pytest.mark.parametrize("told", [t for t in of("sample") if "fdm" in t.args.model], ids=lambda told: told.args.out)
def test_fdms_schemes_make_ten_frames_from_ten(told):
    args = told.args
    jobs, clip = jobs_of(args), recipe(args.model).data.frames
    assert {len(job.slots) * clip for job in jobs[:-1]} == {10}
    assert {len(job.observed) * clip for job in jobs} == {10}
    made = sorted(slot for job in jobs for slot in job.slots)
    assert made == list(range(35 // clip, args.frames // clip))  # the first seven clips are given, of the next one frame is
    far = any(abs(slot - other) > 3 for job in jobs for slot in job.slots for other in job.observed)
    assert far == (args.scheme != "autoreg")
