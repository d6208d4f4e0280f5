"""The command line: every experiment, every YAML and every command of the README, without running them."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from autoencoder.config import FirstStageConfig
from configs.commands import COMMANDS
from configs.schema import FOLDER, load_config, plain
from latent_diffusion.config import DiffusionStageConfig
from main import main
from tests.tiny import DDPM, FIRST, ROOT

FILES = sorted(str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*.yaml"))
README = ROOT / "README.md"


def dry(capsys, *words):
    """The settings that a command would run with."""
    assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert not printed.err
    return yaml.safe_load(printed.out)


def readme_commands(file: Path = README) -> list[list[str]]:
    """Words after main.py of every command in a code block or in backticks."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    blocks = "\n".join(re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    lines = blocks.splitlines() + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    commands = []
    for line in lines:
        found = re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*(?:python3? |torchrun .*?)?main\.py (.*--exp .*)", line)
        if found and "..." not in line:
            words = shlex.split(found[1], comments=True)
            commands.append(words[:next((i for i, word in enumerate(words) if word in ("&&", "|", ">", ";")), len(words))])
    return commands


@pytest.mark.parametrize("exp", COMMANDS)
def test_every_experiment_has_a_dry_run(capsys, exp):
    assert dry(capsys, "--exp", exp)


def test_help_explains_every_experiment(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\S", printed, re.M) for name in COMMANDS)
    undescribed = re.findall(r"^  (--\S+)(?: \S+)?$\n(?!  +)", printed, re.M)
    assert not undescribed


@pytest.mark.parametrize("file", FILES)
def test_every_yaml_loads(file):
    owner = FirstStageConfig if "autoencoder" in file else DiffusionStageConfig
    config = load_config(owner, FOLDER / file)
    assert isinstance(config, owner)
    assert plain(config)["loop"]["steps"] == config.loop.steps


@pytest.mark.skipif(not README.is_file(), reason="no README.md")
def test_the_readme_has_commands():
    assert {"first_stage", "ddpm", "sample", "evaluate"} <= {words[words.index("--exp") + 1] for words in readme_commands()}


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_commands_of_the_readme_pass(capsys, monkeypatch, words):
    monkeypatch.chdir(ROOT)
    assert dry(capsys, *words)


def test_flags_and_keys_mix_in_any_order(capsys):
    words = ("--steps 7", "optim.lr=2e-4", "--data SHAPES", "loop.save_every=3", "--seed 5")
    wanted = dry(capsys, *FIRST, *" ".join(words).split())
    assert (wanted["loop"]["steps"], wanted["optim"]["lr"], wanted["loop"]["save_every"]) == (7, 2e-4, 3)
    assert (wanted["data"]["name"], wanted["train"]["seed"]) == ("SHAPES", 5)
    for turn in range(1, len(words)):
        turned = " ".join(words[turn:] + words[:turn]).split()
        assert dry(capsys, *turned, *FIRST) == wanted


def test_config_mod_is_the_same_as_bare_keys(capsys):
    wanted = dry(capsys, *DDPM, "optim.lr=3e-4", "loop.keep=4", "ema.every=2")
    assert dry(capsys, *DDPM, "--config_mod", "optim.lr=3e-4", "loop.keep=4", "ema.every=2") == wanted
    assert dry(capsys, *DDPM, "--config_mod", "optim.lr=3e-4", "--config_mod", "loop.keep=4", "--seed", "42",
               "ema.every=2") == wanted


def test_a_key_on_the_line_beats_a_flag_and_both_beat_the_yaml(capsys):
    assert dry(capsys, *FIRST, "--steps", "8")["loop"]["steps"] == 8
    assert dry(capsys, *FIRST, "--steps", "8", "loop.steps=9")["loop"]["steps"] == 9


@pytest.mark.parametrize("spelled", [["--known", "-4--1"], ["--known=-4--1"]])
def test_negative_frames_parse(capsys, spelled):
    assert dry(capsys, "--exp", "sample", *spelled, "--frames", "8")["known"] == "-4--1"


def test_scale_lr_multiplies_by_the_batch(capsys):
    plain_rate = dry(capsys, *DDPM)["optim"]["lr"]
    assert dry(capsys, *DDPM, "--batch_size", "6", "--scale_lr")["optim"]["lr"] == pytest.approx(6 * plain_rate)
    assert dry(capsys, *DDPM, "--scale_lr", "optim.lr=1e-5", "loop.batch_size=3")["optim"]["lr"] == pytest.approx(3e-5)


def test_size_and_length_of_clips_are_said_once(capsys):
    settings = dry(capsys, *FIRST, "data.resolution=[16,24]", "--frames", "6")
    assert (settings["model"]["resolution"], settings["model"]["frames"]) == ([16, 24], 6)


@pytest.mark.parametrize("known", [[], ["--known", "0-3,-1"]])
def test_plan_prints_json_and_nothing_else(capsys, known):
    assert main(["--exp", "plan", "--scheme", "hierarchy-2", "--frames", "20", "--window", "6", "--stride", "3", *known]) == 0
    printed = capsys.readouterr()
    windows = json.loads(printed.out)
    assert not printed.err
    made = sorted(frame for window in windows for frame in window["target"])
    assert made == sorted(set(range(20)) - ({0, 1, 2, 3, 19} if known else set()))
    assert all(set(window) == {"observed", "target"} for window in windows)


def test_another_plug_in_takes_no_options_of_the_one_before(capsys):
    assert set(dry(capsys, *DDPM)["mask"]) == {"name", "parts"}
    assert dry(capsys, *DDPM, "mask.name=prefix")["mask"] == {"name": "prefix"}
    assert dry(capsys, *DDPM, "mask.rate=0.2", "mask.name=pvdm")["mask"] == {"name": "pvdm", "rate": 0.2}
