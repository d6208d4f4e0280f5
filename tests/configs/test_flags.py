"""The flags of the command line: who reads them, what happens where nobody does, and what the help says of them."""

import importlib
import inspect
import json
import re
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from fakes import NextNet, autoencoder, autoencoder_payload, fake_model, first_config

from configs.commands import COMMANDS, readers
from configs.flags import FLAGS
from configs.schema import DEFAULTS, FOLDER
from latent_diffusion.completion import Completion, Settings
from latent_diffusion.plan import print_plan
from latent_diffusion.sample_options import OPTIONS as LESSER
from latent_diffusion.samplers import SAMPLERS
from latent_diffusion.schedule import ScheduleConfig
from latent_diffusion.task import TASKS
from main import Parser, main
from tests.tiny import ROOT
from tools import checkpoint
from tools.clips import DataConfig
from tools.sources import SOURCES

HELP = {flag.name.removeprefix("--"): flag.options["help"] for flags in FLAGS.values() for flag in flags}
OPTIONS = {flag.name.removeprefix("--"): flag.options for flags in FLAGS.values() for flag in flags}
FUNCTIONS = {"reconstruct": "autoencoder.reconstruct:reconstruct", "sample": "latent_diffusion.sample:sample",
             "plan": "latent_diffusion.plan:print_plan", "info": "latent_diffusion.info:info",
             "report": "evals.report:report", "export": "latent_diffusion.export:export"}
TRAINING = {"id", "seed", "data", "data_path", "batch_size", "pretrain_config", "diffusion_config", "first_model",
            "first_stage_folder", "resume", "init_from", "scale_lr", "steps", "resolution", "frames", "workers", "results"}


def line_of(flag):
    """The words that give a flag some value."""
    if OPTIONS[flag].get("nargs") == 0:
        return [f"--{flag}"]
    return [f"--{flag}", {int: "3", float: "0.5", str: "x"}[OPTIONS[flag]["type"]]]


def parsed(*words):
    return Parser().parse([str(word) for word in words])


def refused(capsys, *words):
    """The one line of a command that must fail."""
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


# --- a flag is read, or refused ------------------------------------------------------------------------------

@pytest.mark.parametrize("exp", COMMANDS)
@pytest.mark.parametrize("extra", [[], ["--dry-run"]], ids=["run", "dry"])
def test_a_flag_that_an_experiment_does_not_read_is_refused(capsys, exp, extra):
    for flag in sorted(set(OPTIONS) - COMMANDS[exp].reads):
        line = refused(capsys, "--exp", exp, *line_of(flag), *extra)
        assert f"--exp {exp} does not read --{flag}, got {' '.join(line_of(flag))}; leave it out" in line
        others = [other for other in COMMANDS if flag in COMMANDS[other].reads]
        assert line.endswith(f"it is for --exp {', '.join(others)}\n") and exp not in others


def test_also_with_the_value_that_it_would_have_anyway(capsys):
    assert "--sampler ddim" in refused(capsys, "--exp", "plan", "--frames", 8, "--sampler", "ddim")


def test_the_first_of_several_is_named(capsys):
    assert "--npz" in refused(capsys, "--exp", "info", "--model", "x", "--npz", "--id", "a")


def test_every_flag_has_a_reader_and_every_reader_a_flag():
    assert set().union(*(command.reads for command in COMMANDS.values())) == set(OPTIONS)


def test_training_reads_the_flags_of_the_contract():
    assert COMMANDS["first_stage"].reads | COMMANDS["ddpm"].reads >= TRAINING
    assert {exp for exp in COMMANDS if "results" in COMMANDS[exp].reads} == set(COMMANDS)


@pytest.mark.parametrize("exp, where", FUNCTIONS.items())
def test_flags_are_the_arguments_of_the_experiments_function(monkeypatch, exp, where):
    module, name = where.split(":")
    wanted = set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    called = {}
    monkeypatch.setattr(f"{module}.{name}", lambda **options: called.update(options))
    assert main(["--exp", exp]) == 0
    assert set(called) == wanted
    assert COMMANDS[exp].reads | {"overrides"} >= wanted and COMMANDS[exp].reads - wanted <= {"results"}


class Watched(Namespace):
    """Remembers which flags are looked at."""

    def __getattribute__(self, name):
        if name in OPTIONS:
            vars(self).setdefault("seen", set()).add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("exp, words", [("first_stage", ["--seed", "1"]),
                                        ("ddpm", ["--seed", "1", "--pretrain_config", FOLDER / "autoencoder" / "tiny.yaml"])])
def test_training_looks_at_the_flags_that_it_says_it_reads(monkeypatch, tmp_path, exp, words):
    monkeypatch.setattr("autoencoder.train.train_first_stage", lambda *args, **options: None)
    monkeypatch.setattr("latent_diffusion.train.train_diffusion", lambda *args, **options: None)
    checkpoint.save(tmp_path / "first.pth", autoencoder_payload(autoencoder(first_config())))
    model = ["--first_model", tmp_path / "first.pth"] if exp == "ddpm" else []
    args = Watched(**vars(parsed("--exp", exp, *words, *model, "--results", tmp_path)))
    COMMANDS[exp].run(args)
    assert args.seen == COMMANDS[exp].reads


def test_the_demo_looks_at_the_flags_that_it_says_it_reads(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr("latent_diffusion.demo.demo", lambda first, second, folder: called.append((first, second, folder)))
    args = Watched(**vars(parsed("--exp", "demo", "--seed", 5, "--results", tmp_path)))
    COMMANDS["demo"].run(args)
    ((first, second, folder),) = called
    assert args.seen == COMMANDS["demo"].reads == {"seed", "results"}
    assert (first.train.seed, second.train.seed, folder) == (5, 5, tmp_path / "demo")


# --- what the help says --------------------------------------------------------------------------------------

def documented(flag):
    """Every default that the help of a flag tells as a value."""
    return re.findall(r"default ([\w$./,-]*\w)", HELP[flag])


def test_the_help_ends_in_the_experiments_that_read_a_flag():
    for flag, text in HELP.items():
        if flag == "results":
            assert text.endswith("[every --exp]")
            continue
        told = re.search(r"\[--exp ([\w, ]+)\]$", text)[1].split(", ")
        assert told == [exp for exp, command in COMMANDS.items() if flag in command.reads] == readers(flag)


def test_defaults_of_the_parser_are_told():
    values = {flag: options.get("default") for flag, options in OPTIONS.items()}
    known = {flag: value for flag, value in values.items() if value not in (None, False) or flag == "guidance"}
    assert {flag: type(value)(documented(flag)[0]) for flag, value in known.items()} == known
    assert {"id": "main", "seed": 42, "results": "results"}.items() <= known.items()  # the contract


def test_paths_of_the_yamls_are_told():
    for flag, exp in (("pretrain_config", "first_stage"), ("diffusion_config", "ddpm")):
        assert ROOT / documented(flag)[0] == DEFAULTS[exp].resolve()


def test_sampling_defaults_are_told(tmp_path, capsys):
    words = ("--baseline", "repeat_last", "--task", "infill", "--known", 0, "--data", "SHAPES", "data.size=16", "data.length=8",
             "data.count=6", "--frames", 8, "--out", tmp_path)
    assert main(["--exp", "sample", *map(str, words)]) == 0
    record = json.loads((tmp_path / "sample.json").read_text())
    told = {flag: documented(flag)[0] for flag in ("window", "stride", "batch_size", "samples_per_video")}
    assert told == {flag: str(record[flag]) for flag in told}
    assert "of real ones, one window of each video" in HELP["num_videos"] and len(record["videos"]) == 6


def test_so_many_videos_are_made_from_nothing(monkeypatch, tmp_path):
    pipeline = SimpleNamespace(model=fake_model(NextNet()), clip=4, size=(2, 2))
    monkeypatch.setattr("latent_diffusion.sample.VideoDiffusion.load", lambda *args, **options: pipeline)
    made = []
    pipeline.stream = lambda given, frames, ids, **options: made.extend(ids) or [given.new_zeros(len(ids), frames, 2, 2, 1)]
    assert main(["--exp", "sample", "--model", "x", "--out", str(tmp_path)]) == 0
    assert str(len(made)) == documented("num_videos")[0]


def test_the_default_task_is_told(monkeypatch):
    words = documented("task")
    assert words[0].split(",")[0] == "predict" and "generate where there is neither --data nor --input" in HELP["task"]
    tasks = []
    monkeypatch.setattr("latent_diffusion.sample.known_frames", lambda task, *rest: tasks.append(task) or 1 / 0)
    for given in ([], ["--data", "SHAPES"], ["--input", "x"]):
        with pytest.raises(ZeroDivisionError):
            main(["--exp", "sample", "--baseline", "blend", "--known", "0", *given])
    assert tasks == ["generate", "predict", "predict"]
    assert all(task in HELP["task"] for task in TASKS)


def test_defaults_of_a_plan_are_told(capsys):
    def windows(**sizes):
        print_plan(scheme="autoreg", frames=50, known="0-9", **({"window": None, "stride": None} | sizes))
        return capsys.readouterr().out

    window = int(re.search(r"plan: frames \(default (\d+)\)", HELP["window"])[1])
    assert "plan: frames (default half of --window)" in HELP["stride"]
    assert windows() == windows(window=window, stride=window // 2) != windows(window=window + 2, stride=window // 2)


def test_the_default_sampler_and_its_steps_are_told():
    own = Settings().suited(ScheduleConfig("cosine"))
    assert [documented("sampler")[0].strip(",")] == [own.sampler["name"]] and documented("steps")[0] == own.steps
    table, other = Settings().suited(ScheduleConfig("linear")), re.search(r"(\d+) of any other", HELP["steps"])[1]
    assert f"or {table.sampler['name']} with --eta and for models whose schedule is a table" in HELP["sampler"]
    assert {table.steps, *(Settings(sampler=name).suited(ScheduleConfig("cosine")).steps for name in SAMPLERS if name != "deis")
            } == {other}


def test_options_of_samplers_are_told():
    assert [float(value) for value in documented("eta")] == [SAMPLERS.options("ddim")["eta"]]
    assert set(re.split(r", | \(", HELP["sampler"])) >= set(SAMPLERS)
    grids = [Completion(fake_model(NextNet()), Settings(overlap=overlap), torch.zeros(9, dtype=torch.bool), []).grid
             for overlap in (None, int(documented("overlap")[0]))]
    assert grids[0] == grids[1]


def test_lesser_settings_of_sampling_are_told():
    for key in LESSER:
        assert sum(key in text for text in HELP.values()) == 1, key


def test_what_data_defaults_to_is_told(monkeypatch, tmp_path):
    assert documented("workers") == [str(DataConfig().workers)]
    assert all(name in HELP["data"] for name in SOURCES)
    assert "default $VIDEO_DATA, or else /data" in HELP["data_path"]
    opened = []
    monkeypatch.setitem(SOURCES._items, "SKY", lambda path, *, split="all": opened.append(path) or 1 / 0)
    for value in (str(tmp_path), ""):
        monkeypatch.setenv("VIDEO_DATA", value)
        with pytest.raises(ZeroDivisionError):
            main(["--exp", "sample", "--baseline", "blend", "--known", "0", "--data", "SKY"])
    assert opened == [str(tmp_path), "/data"]


def test_pairs_are_compared_so_many_at_once(monkeypatch):
    told = inspect.signature(importlib.import_module("evals.run").evaluate).parameters["batch_size"].default
    assert documented("batch_size")[-1] == str(told)
    asked = {}
    monkeypatch.setattr("evals.run.evaluate", lambda *args, **options: asked.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["--exp", "evaluate", "--real", "x", "--fake", "x"])
    assert asked["batch_size"] == told


def test_a_baseline_is_said_to_need_known_frames(capsys):
    assert "--known" in HELP["baseline"] and "--known" in COMMANDS["sample"].help
    assert "--known" in refused(capsys, "--exp", "sample", "--baseline", "repeat_last", "--data", "SHAPES")
