"""The recipes: every file loads and is used, every command of their README passes, and what it trains is what it samples."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from autoencoder.config import FirstStageConfig
from autoencoder.model import build_autoencoder
from configs.schema import FOLDER, load_config
from latent_diffusion.condition import OFFSETS
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.masks import MASKS
from latent_diffusion.samplers import SAMPLERS
from latent_diffusion.schedule import sampling_levels
from latent_diffusion.slots import make_grid
from latent_diffusion.task import known_frames
from main import Parser
from tests.test_commands import dry, readme_commands
from tests.tiny import ROOT
from tools.ema import Ema
from tools.rng import rand

RECIPES = FOLDER / "recipes"
README = RECIPES / "README.md"
SCHEMAS = {"autoencoder": FirstStageConfig, "diffusion": DiffusionStageConfig}
FILES = sorted(RECIPES.rglob("*.yaml"))
COMMANDS = readme_commands(README)
SYSTEMS = {"mcvd", "ramvid", "fdm", "pvdm", "vidm"}


class Told(NamedTuple):
    """A command of the README: its words, and what the parser makes of them."""
    words: list[str]
    args: object


TOLD = [Told(words, Parser().parse(words)) for words in COMMANDS]


def of(exp):
    return [told for told in TOLD if told.args.exp == exp]


def run_folder(told):
    return f"results/{told.args.exp}_{told.args.id}_{told.args.data}_42"


def name_of(file):
    return str(Path(file).resolve().relative_to(RECIPES.resolve()).with_suffix(""))


def config(name, *overrides, frames=None):
    """The settings of a recipe such as mcvd/kth_diffusion."""
    return load_config(SCHEMAS[name.split("_")[-1]], RECIPES / f"{name}.yaml", {"data.frames": frames}, overrides)


def trained_on():
    """Diffusion recipe -> the autoencoder's recipe that the README trains it on."""
    return {name_of(t.args.diffusion_config): name_of(t.args.pretrain_config) for t in of("ddpm")}


def networks(autoencoder, diffusion):
    """Both networks of a pair, without memory for their weights."""
    with torch.device("meta"):
        first = build_autoencoder(autoencoder.model)
        second = LatentDenoiser(diffusion.unet, diffusion.condition, first.shape, autoencoder.model.latent_channels,
                                autoencoder.model.frames)
    return first, second


def millions(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


def drawn(cfg, draws=200):
    """Which frames training gives around and in a clip: the sets of known frames of its windows."""
    frames = cfg.data.frames * len(span_of(cfg))
    sampler, found = MASKS.bind(cfg.mask), set()
    for number in range(draws):
        uniform = iter(rand((4 * frames + 64,), 0, "mask", number).tolist())
        found.add(frozenset(sampler(frames, lambda uniform=uniform: next(uniform)).nonzero().flatten().tolist()))
    return found


def span_of(cfg):
    """Clips of a training window, counted from the target."""
    offsets = [0, *(OFFSETS[place] for place in cfg.condition["sees"])]
    return range(min(offsets), max(offsets) + 1)


def table(title):
    """Rows of the README's table whose header begins so."""
    text = README.read_text(encoding="utf-8")
    rows = text[text.index(f"| {title}"):].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


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
    assert (first.name, first.fold, first.stride) == (second.name, second.fold, second.stride)


@pytest.mark.parametrize("diffusion, autoencoder", trained_on().items())
def test_networks_build_and_a_latent_is_smaller_than_its_clip(diffusion, autoencoder):
    first, second = config(autoencoder), config(diffusion)
    net, denoiser = networks(first, second)
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
    diffusion = f"{name}_diffusion"
    assert millions(networks(config(trained_on()[diffusion]), config(diffusion))[1]) == pytest.approx(published, rel=0.1)


# learning rate, warm-up, weight decay, clipped norm, average, clips an update, last level's beta
OPTIMA = {
    "mcvd/smmnist": (2e-4, 1000, 0, 1.0, 0.999, 64, 0.02), "mcvd/kth": (2e-4, 5000, 0, 1.0, 0.999, 64, 0.02),
    "mcvd/bair": (1e-4, 5000, 0, 1.0, 0.999, 64, 0.02), "mcvd/cityscapes": (1e-4, 5000, 0, 1.0, 0.999, 32, 0.02),
    "mcvd/ucf101": (1e-4, 5000, 0, 1.0, 0.999, 32, 0.02), "ramvid/bair": (2e-5, 0, 0, 1.0, 0.9999, 4, 0.02),
    "ramvid/kinetics600": (2e-5, 0, 0, 1.0, 0.9999, 8, 0.02), "ramvid/ucf101": (2e-5, 0, 0, 1.0, 0.9999, 8, 0.02),
    "fdm/carla": (1e-4, 0, 0, None, 0.9999, 2, 0.02), "vidm/clevrer": (2e-5, 0, 0.01, 1.0, 0.999, 48, 0.02),
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


# --- the README ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_passes(capsys, monkeypatch, words):
    monkeypatch.chdir(ROOT)
    assert dry(capsys, *words)


def test_every_recipe_is_trained_sampled_and_evaluated():
    firsts, seconds = {run_folder(t): t for t in of("first_stage")}, {run_folder(t): t for t in of("ddpm")}
    for t in of("first_stage"):
        assert not t.args.first_stage_folder or t.args.first_stage_folder in firsts
    for t in of("ddpm"):
        assert firsts[t.args.first_model].args.pretrain_config == t.args.pretrain_config
    sampled = {t.args.out: t for t in of("sample")}
    assert {t.args.model for t in sampled.values()} == set(seconds)
    evaluated = {sampled[t.args.fake].args.model for t in of("evaluate")}
    assert evaluated == set(seconds)
    for t in of("evaluate"):
        assert t.args.real == f"{t.args.fake}/real" and sampled[t.args.fake].args.data
    assert len(sampled) == len(of("sample"))  # none writes over another


@pytest.mark.parametrize("told", of("sample"), ids=lambda told: told.args.out)
def test_samples_are_asked_of_what_was_trained(told):
    args = told.args
    trainer = next(t for t in of("ddpm") if run_folder(t) == args.model)
    cfg = config(name_of(trainer.args.diffusion_config))
    assert args.data in (None, cfg.data.name)
    if args.data:  # the same cut of the videos as in training
        assert {f"data.{key}={getattr(cfg.data, key)}" for key, default in (("stride", 1), ("fold", 1))
                if getattr(cfg.data, key) != default} == set(args.overrides)
    known_frames(args.task, cfg.data.frames, args.frames, args.known)
    for steps in args.steps.split("/"):
        assert len(sampling_levels(cfg.schedule, steps)) == int(steps) + 1
    SAMPLERS.bind({"name": args.sampler} | ({} if args.eta is None else {"eta": args.eta}))


@pytest.mark.parametrize("told", [t for t in of("sample") if "mcvd" in t.args.model or "vidm" in t.args.model],
                         ids=lambda told: told.args.out)
def test_what_is_shown_while_sampling_was_seen_in_training(told):
    trainer = next(t for t in of("ddpm") if run_folder(t) == told.args.model)
    cfg = config(name_of(trainer.args.diffusion_config))
    t, span, seen = cfg.data.frames, span_of(cfg), drawn(cfg)
    done = known_frames(told.args.task, t, told.args.frames, told.args.known)
    grid = make_grid(len(done), t, told.args.overlap or 0)
    for start in grid.starts:  # one after the other, each from the given and the made frames around it
        window = range(start + span.start * t, start + span.stop * t)
        shown = frozenset(i for i, frame in enumerate(window) if 0 <= frame < len(done) and done[frame])
        assert shown in seen, f"clip at {start}: {sorted(shown)}"
        done[start:start + t] = True
    assert done.all()


@pytest.mark.parametrize("row", table("setting"), ids=lambda row: row[0].split("]")[0][1:])
def test_the_table_tells_the_files_and_the_clips_that_are_there(row):
    patterns = re.findall(r"`(.+?)`", row[1])
    found = [config(name_of(file)) for pattern in patterns for file in RECIPES.glob(f"{pattern}.yaml")]
    assert {type(cfg) for cfg in found} == {FirstStageConfig, DiffusionStageConfig}
    for said in [int(text) for text in re.findall(r"T = (\d+)", row[2])]:
        assert said in {cfg.data.frames for cfg in found}
    sums = re.findall(r"((?:\d+(?: past| current| future)? \+ )+\d+)(?: future)? -> T = (\d+)", row[2])
    for parts, said in sums:
        assert sum(map(int, re.findall(r"\d+", parts))) == int(said)


def test_every_setting_is_in_the_table():
    said = {pattern.removesuffix("_*") for row in table("setting") for pattern in re.findall(r"`(.+?)`", row[1])}
    settings = {name_of(file).rsplit("_", 1)[0] for file in FILES if file.parent.name in SYSTEMS}
    assert not [s for s in settings if not s.endswith("common") and not any(s == x or s.startswith(f"{x}_") for x in said)]


@pytest.mark.parametrize("row", table("published model"), ids=lambda row: row[0])
def test_mcvds_other_models_are_those_words_away(row):
    words = row[1].strip("`").split()
    for name in BLOCKS:
        diffusion = f"mcvd/{name}_diffusion"
        cfg = config(diffusion, *words)
        known = drawn(cfg)
        p_past, p_future = cfg.mask["p_past"], cfg.mask.get("p_future", 0.5)
        past = frozenset(range(cfg.mask["past"]))
        assert (frozenset() in {k & past for k in known}) == (p_past > 0)
        assert (past in {k & past for k in known}) == (p_past < 1)
        if cfg.mask["future"]:
            last = cfg.data.frames - 1
            assert any(last in k for k in known) == (p_future < 1) and any(last not in k for k in known) == (p_future > 0)
        networks(config(trained_on()[diffusion]), cfg)


def test_the_longer_blocks_of_mcvd_fit_their_clips():
    text = README.read_text(encoding="utf-8")
    said = re.findall(r"`--frames (\d+) (mask\.[^`]+)`", text)
    for (frames, words), name in zip(said, ("smmnist", "kth"), strict=True):
        cfg = config(f"mcvd/{name}_diffusion", *words.split(), frames=int(frames))
        assert max(map(len, drawn(cfg))) == int(frames) - cfg.mask["current"]
        with torch.device("meta"):
            build_autoencoder(config(f"mcvd/{name}_autoencoder", frames=int(frames)).model)


def test_ids_of_runs_differ():
    folders = [run_folder(t) for t in (*of("first_stage"), *of("ddpm"))]
    assert len(set(folders)) == len(folders)
