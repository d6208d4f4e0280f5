"""The notebook runs from its first cell to its last."""

import json
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "quickstart.ipynb"


def test_the_notebook_does_its_tour(tmp_path, monkeypatch, capsys):
    for name in ("main.py", "configs"):  # what the notebook looks for where it is started
        (tmp_path / name).symlink_to(NOTEBOOK.parents[1] / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(NOTEBOOK.parents[1]))
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for cell in cells:  # of fewer updates, and plain Python: there is no Jupyter among the test's packages
        exec(compile(cell.replace("STEPS = 200", "STEPS = 4"), str(NOTEBOOK), "exec"), names)
    results = tmp_path / "results" / "quickstart"
    assert {path.name for path in results.iterdir()} == {"first_stage_main_SHAPES_42", "ddpm_main_SHAPES_42", "prediction",
                                                         "prediction.json"}
    assert len(list((results / "prediction" / "samples").glob("*.npy"))) == 4
    assert names["picture"].width > 12 * 16 and names["STEPS"] == 4
    assert "psnr" in capsys.readouterr().out
