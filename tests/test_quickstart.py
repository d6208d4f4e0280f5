"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"


def test_the_notebook_does_its_tour(tmp_path, monkeypatch):
    for name in ("main.py", "configs"):  # what the notebook looks for where it is started
        (tmp_path / name).symlink_to(NOTEBOOK.parents[1] / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(NOTEBOOK.parents[1]))
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for cell in cells:  # of fewer updates, and plain Python: there is no Jupyter among the test's packages
        exec(compile(cell.replace("STEPS = 200", "STEPS = 4"), str(NOTEBOOK), "exec"), names)
    results = tmp_path / "results" / "quickstart"
    assert {path.name for path in results.iterdir()} == {
        "first_stage_main_SHAPES_42", "ddpm_main_SHAPES_42", "prediction", "prediction.json", "repeat_last",
        "repeat_last.json", "report.html", "prediction.png"}
    assert len(list((results / "prediction" / "samples").glob("*.npy"))) == 4
    assert names["picture"].width > 12 * 16 and names["STEPS"] == 4
    page = (results / "report.html").read_text(encoding="utf-8")
    for name, scores in names["scores"].items():  # the page tells what was measured, and the cell shows it
        assert name in page and set(scores) == {"psnr", "ssim"}
        told = json.loads((results / f"{name}.json").read_text())["metrics"]["psnr"]["mean"]
        assert scores["psnr"] == pytest.approx(told, abs=1e-3) and f"{told:.2f}" in page


def test_the_notebook_keeps_no_outputs():
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in json.loads(NOTEBOOK.read_text())["cells"])
