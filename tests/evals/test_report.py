"""The command report: one page that needs nothing from elsewhere."""

import re

import pytest
from media import flat, put_samples
from outline import Outline
from runs import put_result, put_run

from main import main
from tools.writers import write_mp4, write_png


@pytest.fixture
def project(tmp_path):
    """Runs of different length, one without a metric of the other; samples and evaluations."""
    long = [(step, name, 1 / step) for step in (1, 2, 3, 4) for name in ("train/loss", "train/steps_per_second")]
    put_run(tmp_path / "results/ddpm_a", [*long, (4, "validate/loss", 0.2)], unet={"width": 8}, optim={"lr": 1})
    put_run(tmp_path / "results/ddpm_b", [(1, "train/loss", 3.0), (1, "train/extra", 1.0)], unet={"width": 16}, optim={"lr": 1})
    put_run(tmp_path / "results/first_c", [(1, "train/l1", 3.0), (1, "train/loss", 3.0)], model={"patch": 4})
    (tmp_path / "results/ddpm_a/samples").mkdir()
    write_mp4(tmp_path / "results/ddpm_a/samples/step-00000004.mp4", flat(0))
    write_png(tmp_path / "results/ddpm_a/samples/step-00000004.png", flat(0)[0])
    put_samples(tmp_path / "predict")
    put_result(tmp_path / "predict.json", {"name": "custom", "frames_compared": [2, 3]}, psnr=(21.5, 0.5))
    put_result(tmp_path / "repeat.json", {"name": "custom", "frames_compared": [2, 3]}, psnr=(20.5, 0.5), ssim=(0.5, None))
    return tmp_path


def page_of(folder, *words):
    out = folder / "page.html"
    assert main(["--exp", "report", "--runs", *map(str, words), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def drawings(page):
    """title -> series drawn, of every plot."""
    return {title: set(re.findall(r'<g class="s(\d+)">', body))
            for title, body in re.findall(r"<figcaption>([^<]*)</figcaption>(<svg.*?</svg>)", page, re.S)}


def test_the_page_holds_everything_and_fetches_nothing(project, capsys):
    page = page_of(project, project / "results", project / "predict", project / "predict.json", project / "repeat.json")
    assert "3 training runs, 1 folder of videos, 2 evaluations" in capsys.readouterr().out
    outline = Outline(page)
    sources = [a[key] for _, a in outline.tags for key in ("src", "href", "data", "srcset", "poster") if key in a]
    assert sources and all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?:|@import|<link|<iframe", re.sub(r'"data:[^"]*"', "", page))
    for title in ("Runs", "Metrics", "Videos", "While training", "Curves", "Settings"):
        assert page.count(f"<h2>{title}</h2>") == 1
    assert len(outline.all("video")) == 2 * 3 + 1


def test_runs_share_a_picture_each_metric_stage_by_stage(project):
    curves = page_of(project, project / "results").split("<h2>Curves</h2>")[1]
    diffusion, autoencoder = map(drawings, curves.split("<h3>Autoencoder</h3>"))
    assert diffusion == {"loss": {"0", "1"}, "extra": {"1"}, "steps_per_second": {"0"}}
    assert autoencoder == {"loss": {"2"}, "l1": {"2"}}


def test_only_settings_that_differ_are_in_the_table(project):
    page = page_of(project, project / "results")
    table = page.split("<h2>Settings</h2>")[1].split("<details>")[0]
    assert "unet.width" in table and "optim.lr" not in table and "model.patch" not in table
    assert "optim.lr: 1" in page  # in the folded list of all


def test_metrics_of_one_protocol_share_a_table(project):
    page = page_of(project, project / "predict.json", project / "repeat.json")
    metrics = page.split("<h2>Metrics</h2>")[1]
    assert metrics.count("<table") == 1 and "<strong>21.50</strong>" in metrics and "± 0.50" in metrics
    put_result(project / "other.json", {"name": "custom", "frames_compared": [3]}, psnr=(30, 0.5))
    page = page_of(project, project / "predict.json", project / "repeat.json", project / "other.json")
    assert page.count("<table") == 2 and "do not compare" in page


def test_a_thing_has_one_colour_on_the_page(project):
    page = page_of(project, project / "repeat.json", project / "predict.json", project / "predict")
    colours = set(re.findall(r'var\(--s(\d+)\)"></i>predict\b', page))
    assert colours == {"0"} and drawings(page)["psnr"] == {"0", "1"}


def test_videos_may_be_left_out(project):
    out = project / "page.html"
    words = ["--runs", str(project / "predict"), str(project / "results"), "--num_videos", "0", "--out", str(out)]
    assert main(["--exp", "report", *words]) == 0
    assert "<video" not in out.read_text()


def test_the_page_lies_in_a_single_run_or_in_the_results(project, monkeypatch):
    assert main(["--exp", "report", "--runs", str(project / "results/ddpm_a")]) == 0
    assert (project / "results/ddpm_a/report.html").is_file()
    both = [str(project / "results/ddpm_a"), str(project / "results/ddpm_b")]
    assert main(["--exp", "report", "--runs", *both, "--results", str(project / "there")]) == 0
    assert (project / "there/report.html").is_file()
    assert main(["--exp", "report", "--runs", *both, "--out", str(project / "results")]) == 0
    assert (project / "results/report.html").is_file()


@pytest.mark.parametrize("words, part", [
    (["--runs", "{tmp}/absent"], "absent: no such file or folder"), ([], "needs --runs"),
    (["--runs", "{tmp}/predict", "--num_videos", "-1"], "--num_videos must be 0"),
    (["--runs", "{tmp}/predict", "{tmp}/absent"], "absent: no such"),
], ids=["absent", "none", "negative", "one absent"])
def test_errors_are_one_line_and_leave_no_page(project, capsys, words, part):
    words = [word.replace("{tmp}", str(project)) for word in words]
    assert main(["--exp", "report", *words, "--out", str(project / "page.html")]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and part in line
    assert not (project / "page.html").exists()
