"""The command demo: what it leaves behind, and what a second call does; with settings that train for seconds."""

import html.parser
import json
import math
import re
import shutil

import pytest
import yaml

from autoencoder.config import FirstStageConfig
from configs import commands
from configs.schema import FOLDER, load_config
from latent_diffusion.config import DiffusionStageConfig
from main import main
from tests.tiny import alike

NUMBERS = ("reconstruction_psnr", "prediction_psnr", "repeat_last_psnr")
SHORT = {"data": {"name": "SHAPES", "workers": 0, "options": {"size": 16, "length": 24, "count": 8}},
         "loop": {"steps": 4, "save_every": 2, "log_every": 1, "validate_every": 2}, "train": {"validation_clips": 4}}
FILES = {"autoencoder": "autoencoder", "diffusion": "latent-diffusion"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """What lies at configs/demo/, at tiny size."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "demo").mkdir()
    for name, kind in FILES.items():
        (folder / "demo" / f"{name}.yaml").write_text(yaml.safe_dump({"extends": str(FOLDER / kind / "tiny.yaml"), **SHORT}))
    return folder


@pytest.fixture
def demo(settings, monkeypatch):
    """Run the command and return its exit status."""
    monkeypatch.setattr(commands, "FOLDER", settings)

    def run(results, *words):
        with alike():
            return main(["--exp", "demo", "--results", str(results), *words])
    return run


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch, alike():
        patch.setattr(commands, "FOLDER", settings)
        assert main(["--exp", "demo", "--results", str(results)]) == 0
    return results


def metrics(results):
    return json.loads((results / "demo" / "metrics.json").read_text())


class Sources(html.parser.HTMLParser):
    """Where a page takes its parts from, and its text."""

    def __init__(self, page):
        super().__init__()
        self.sources, self.tags, self.text = [], set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "poster", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def test_the_numbers_are_where_they_are_promised(finished):
    found = metrics(finished)
    assert all(isinstance(found[name], float) and math.isfinite(found[name]) for name in NUMBERS)
    assert all(0 < found[name] < 100 for name in NUMBERS), "100 dB is the score of equal frames"
    # of moving shapes, repeating a frame is far better than four updates of a tiny autoencoder
    assert found["repeat_last_psnr"] > found["reconstruction_psnr"]


def test_the_other_tasks_stand_beside_their_baselines(finished):
    others = metrics(finished)["others"]
    assert set(others) == {"predict_backward", "interpolate", "infill"}
    for numbers in others.values():
        assert set(numbers) == {"sample", "nearest", "blend"} and all(0 < value < 100 for value in numbers.values())
    # of one given side a blend is the frame at its end; between two sides it follows what moves evenly
    assert others["predict_backward"]["blend"] == others["predict_backward"]["nearest"]
    assert others["infill"]["blend"] > others["infill"]["nearest"]
    assert (finished / "demo" / "tasks.png").is_file()


def test_the_page_is_one_file_with_videos_and_the_numbers(finished):
    text = (finished / "demo" / "index.html").read_text(encoding="utf-8")
    page = Sources(text)
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    assert "video" in page.tags and not page.tags & {"script", "link", "iframe"}
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(any(f"{metrics(finished)[name]:.{digits}f}" in page.text for digits in (1, 2, 3)) for name in NUMBERS[1:])


def test_a_second_call_only_measures(finished, demo, tmp_path):
    shutil.copytree(finished, tmp_path / "results")
    trained = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("step-*.pt")}
    assert len(trained) >= 2
    before = metrics(tmp_path / "results")
    (tmp_path / "results" / "demo" / "metrics.json").unlink()
    (tmp_path / "results" / "demo" / "index.html").unlink()
    assert demo(tmp_path / "results") == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("step-*.pt")} == trained
    assert {name: metrics(tmp_path / "results")[name] for name in NUMBERS} == {name: before[name] for name in NUMBERS}
    assert (tmp_path / "results" / "demo" / "index.html").is_file()


def test_other_settings_do_not_touch_what_was_trained(finished, demo, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.p*t*")}
    assert demo(finished, "--seed", "7") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "train.seed 42 -> 7" in line and "another --results" in line
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_it_has_no_settings(demo, tmp_path, capsys):
    assert demo(tmp_path, "loop.steps=1") == 2
    assert "--exp demo has no settings to change, got loop.steps=1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_both_stages_and_writes_nothing(demo, tmp_path, capsys):
    assert demo(tmp_path, "--dry-run", "--seed", "5") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert {name: (part["train"]["seed"], part["loop"]["steps"]) for name, part in printed.items()} \
        == {"first_stage": (5, 4), "ddpm": (5, 4)}
    assert list(tmp_path.iterdir()) == []


def test_the_real_demo_needs_no_download():
    first = load_config(FirstStageConfig, FOLDER / "demo" / "autoencoder.yaml")
    second = load_config(DiffusionStageConfig, FOLDER / "demo" / "diffusion.yaml")
    assert first.data.name == second.data.name == "SHAPES" and first.loss.perceptual_weight == 0
    assert (first.data.size, first.data.frames) == (second.data.size, second.data.frames)
