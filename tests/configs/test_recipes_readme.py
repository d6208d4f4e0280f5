"""The README of the recipes: every command passes, and asks for what was trained and is published."""

import argparse
import re
import shlex
from typing import NamedTuple

import pytest
import torch

from autoencoder.config import FirstStageConfig
from autoencoder.model import build_autoencoder
from evals.protocol import METRICS
from evals.protocols import load_rules, protocol_names, split_changes
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.sample import sampler_options
from latent_diffusion.sample_options import data_config, split_overrides
from latent_diffusion.samplers import SAMPLERS
from latent_diffusion.schedule import sampling_levels
from latent_diffusion.settings import Settings
from latent_diffusion.slots import make_grid
from latent_diffusion.task import known_frames
from tests.recipes import (
    COMMANDS,
    FILES,
    RECIPES,
    SYSTEMS,
    TEXT,
    TOLD,
    config,
    drawn,
    jobs_of,
    name_of,
    networks,
    of,
    recipe,
    run_folder,
    span_of,
    table,
    trained_on,
)
from tests.test_commands import dry
from tests.tiny import ROOT
from tools import prepare
from tools.fetch_data import DATASETS
from tools.sources import SOURCES
from tools.weights import WEIGHTS

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
    models, contents = ({getattr(t.args, key) for t in sampled.values()} - {None} for key in ("model", "content"))
    assert models | contents == set(seconds) and not models & contents
    assert len(sampled) == len(of("sample"))  # none writes over another
    evaluated = [t.args.fake for t in of("evaluate")]
    assert sorted(evaluated) == sorted(sampled)
    for t in of("evaluate"):
        assert t.args.real == f"{t.args.fake}/real" and sampled[t.args.fake].args.data


@pytest.mark.parametrize("told", [t for t in TOLD if t.args.data], ids=lambda told: " ".join(told.words))
def test_commands_name_the_dataset_of_their_recipe(told):
    args = told.args
    assert args.data in SOURCES and (args.data_path is not None) == (args.data == "VIDEOS")
    if args.exp in ("first_stage", "ddpm"):
        assert config(name_of(args.diffusion_config or args.pretrain_config)).data.name == args.data


@pytest.mark.parametrize("told", of("sample"), ids=lambda told: told.args.out)
def test_samples_are_asked_of_what_was_trained(told):
    args, cfg = told.args, recipe(told.args.model)
    _, overrides = split_overrides(args.overrides)
    data, _ = data_config(args.data, args.data_path, None, overrides)
    for key in ("name", "stride", "fold", "resize"):  # the same cut of the videos as in training
        assert getattr(data, key) == getattr(cfg.data, key)
    for steps in args.steps.split("/"):
        assert len(sampling_levels(cfg.schedule, steps)) == int(steps) + 1
    assert sampler_of(args) in SAMPLERS
    assert jobs_of(args)  # refuses what the model cannot look at


def sampler_of(args):
    """The sampler of a command: the one that suits the model, where it names none."""
    return Settings(sampler=sampler_options(args.sampler, args.eta)).suited(recipe(args.model).schedule).sampler["name"]


@pytest.mark.parametrize("told", [t for t in of("sample") if "mcvd" in t.args.model or "vidm" in t.args.model],
                         ids=lambda told: told.args.out)
def test_what_is_shown_while_sampling_was_seen_in_training(told):
    args = told.args
    cfg, content = recipe(args.model), recipe(args.content) if args.content else None
    t, span, seen = cfg.data.frames, span_of(cfg), drawn(cfg)
    done = known_frames(args.task, t, args.frames, args.known)
    grid = make_grid(len(done), t, args.overlap or 0)
    for start in grid.starts:  # one after the other, each from the given and the made frames around it
        window = range(start + span.start * t, start + span.stop * t)
        shown = frozenset(i for i, frame in enumerate(window) if 0 <= frame < len(done) and done[frame])
        assert shown in (drawn(content) if content and not shown else seen), f"clip at {start}: {sorted(shown)}"
        done[start:start + t] = True
    assert done.all()


# --- tables, data and metrics ----------------------------------------------------------------------------------

@pytest.mark.parametrize("row", table("`--data`"), ids=lambda row: row[0])
def test_the_data_table_tells_what_can_be_fetched(row):
    data = re.match(r"`(\w+)`", row[0])[1]
    fetched = re.findall(r"`([\w-]+)`", row[1])
    assert data in SOURCES and (fetched or row[2])
    assert {DATASETS[name].data for name in fetched} <= {data}


def test_every_dataset_that_is_used_is_in_the_data_table():
    used = {t.args.data for t in TOLD if t.args.data}
    assert used == {re.match(r"`(\w+)`", row[0])[1] for row in table("`--data`")}


def test_weights_that_are_named_exist():
    said = re.search(r"fetched by name \((.+?)\)", TEXT)[1] + re.search(r"`--model` do \((.+?) of `--exp download`\)", TEXT)[1]
    names = {*re.findall(r"`([\w-]+)`", said), *(t.args.name for t in of("download"))}
    assert names > {"i3d", "pvdm-sky", "carla-regressor"} and not names - {*WEIGHTS}


def prepared():
    """Words of the README's commands that prepare a dataset."""
    return [shlex.split(line) for line in re.findall(r"^python -m tools\.prepare (.+)$", TEXT, re.M)]


@pytest.mark.parametrize("words", prepared(), ids=" ".join)
def test_datasets_are_prepared_by_what_there_is(words):
    args = prepare._parser().parse_intermixed_args(words)
    assert args.name in SOURCES and args.src and args.out
    valid = SOURCES.options(args.name)
    assert set(prepare.parse_options(args.options)) <= set(valid)
    cut = {cfg.data.resize for cfg in map(config, trained_on()) if cfg.data.name == args.name}
    assert cut == {args.resize} and min(prepare.parse_size(args.size)) in {64, 256}


# what the publications report
REPORTED = {"mcvd": {"fvd", "mse", "psnr_mcvd", "ssim_mcvd", "lpips_mcvd"}, "ramvid": {"fvd", "inception_score"},
            "fdm": {"fvd"}, "pvdm": {"fvd", "inception_score"}, "vidm": {"fvd", "inception_score"}}


class Compared(NamedTuple):
    """A command that measures, and the one that made its samples."""
    evaluate: argparse.Namespace
    sample: argparse.Namespace

    @property
    def metrics(self):
        return set(self.evaluate.metrics.split(","))

    @property
    def system(self):
        return self.evaluate.fake.split("/")[1].split("_")[0]


MADE = {t.args.out: t.args for t in of("sample")}
COMPARED = [Compared(t.args, MADE[t.args.fake]) for t in of("evaluate")]


@pytest.mark.parametrize("system", REPORTED)
def test_what_the_publications_report_is_measured(system):
    assert set().union(*(c.metrics for c in COMPARED if c.system == system)) >= REPORTED[system]


@pytest.mark.parametrize("compared", COMPARED, ids=lambda compared: compared.evaluate.out)
def test_what_is_published_is_measured_by_its_protocol(compared):
    args = compared.evaluate
    assert all(name in METRICS for name in compared.metrics)
    assert args.protocol in protocol_names()
    assert (args.protocol != "custom") == bool(REPORTED[compared.system] & compared.metrics)
    changes, options, others = split_changes(args.overrides)
    assert changes in ({}, {"frames": compared.sample.frames}) and not others and set(options) <= compared.metrics


# where a publication differs from its own protocol: one sample of what is made from nothing, the small model's steps
APART = {"mcvd": {"samples_per_video"}, "pvdm": {"steps", "eta"}}


@pytest.mark.parametrize("compared", [c for c in COMPARED if c.evaluate.protocol != "custom"], ids=lambda c: c.evaluate.out)
def test_samples_are_those_of_the_protocol(compared):
    changes, _, _ = split_changes(compared.evaluate.overrides)
    rules, made = load_rules(compared.evaluate.protocol).changed(changes), compared.sample
    assert rules.span in (None, made.frames)
    assert "fvd" not in compared.metrics or made.frames >= 10  # fewer are none for I3D
    side = next((word.split("=")[1] for word in made.overrides if word.startswith("data.split=")), "test")
    said = vars(made) | {"split": side, "sampler": sampler_of(made)}
    apart = {key for key, value in rules.sampling.items() if str(said[key]) != str(value)}
    exception = made.out.endswith("_free") or "small" in made.model
    assert apart == (APART.get(compared.evaluate.protocol, set()) if exception else set())


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
    for diffusion in (name for name in trained_on() if name.startswith("mcvd/")):
        cfg = config(diffusion, *words)
        known = drawn(cfg, 60)
        p_past, p_future = cfg.mask["p_past"], cfg.mask.get("p_future", 0.5)
        past = frozenset(range(cfg.mask["past"]))
        assert (frozenset() in {k & past for k in known}) == (p_past > 0)
        assert (past in {k & past for k in known}) == (p_past < 1)
        if cfg.mask["future"]:
            last = cfg.data.frames - 1
            assert any(last in k for k in known) == (p_future < 1) and any(last not in k for k in known) == (p_future > 0)
        if any(word.startswith("condition.") for word in words):  # a mask changes no network
            networks(config(trained_on()[diffusion]), cfg)


def test_the_longer_blocks_of_mcvd_fit_their_clips():
    said = re.findall(r"`--frames (\d+) (mask\.[^`]+)`", TEXT)
    for (frames, words), name in zip(said, ("smmnist", "kth"), strict=True):
        cfg = config(f"mcvd/{name}_diffusion", *words.split(), frames=int(frames))
        assert max(map(len, drawn(cfg))) == int(frames) - cfg.mask["current"]
        with torch.device("meta"):
            build_autoencoder(config(f"mcvd/{name}_autoencoder", frames=int(frames)).model)


def test_ids_of_runs_differ():
    folders = [run_folder(t) for t in (*of("first_stage"), *of("ddpm"))]
    assert len(set(folders)) == len(folders)
