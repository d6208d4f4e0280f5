import imageio.v3 as imageio

from tools.log import Run
from tools.plot import curves, plot, spans_decades


def record(folder):
    run = Run(folder)
    for step in (1, 2, 3):
        run.metrics(step, {"train/loss": 10.0 ** -step, "train/lr": 0.1, "train/bad": float("nan")})
    run.metrics(3, {"validate/loss": 0.5, "validate/psnr": 20.0})
    run.close()
    return folder / "metrics.jsonl"


def test_curves_of_one_name_share_a_picture(tmp_path):
    groups = curves(record(tmp_path))
    assert groups.keys() == {"loss", "lr", "psnr"}  # what was never finite has no curve
    assert groups["loss"] == {"train": ([1, 2, 3], [0.1, 0.01, 0.001]), "validate": ([3], [0.5])}


def test_plot_writes_a_picture(tmp_path):
    plot(record(tmp_path), tmp_path / "samples/curves.png")
    image = imageio.imread(tmp_path / "samples/curves.png")
    assert image.ndim == 3 and image.std() > 1
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["curves.png"]


def test_nothing_to_plot(tmp_path):
    plot(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_log_scale_is_for_positive_values_far_apart():
    assert spans_decades([0.01, 1]) and not spans_decades([0.1, 1])
    assert not spans_decades([0, 1]) and not spans_decades([-100, 1])
