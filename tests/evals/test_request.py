"""What a line asks for is taken, or refused before any video is read."""

import pytest

from evals.request import check, is_of_sets, make_metrics, names_of, settle


def test_asking_for_what_the_protocol_has_changes_nothing():
    assert settle("mcvd").changes == () and settle("custom", known_frames="include").known_frames == "include"


def test_what_is_asked_for_in_another_way_is_a_change():
    rules = settle("styleganv-16f", resolution=64, changes={"n_real": 5})
    assert set(rules.changes) == {"resolution", "n_real"} and (rules.size, rules.n_real) == ((64, 64), 5)


def test_metrics_are_those_of_the_line_once_each_or_of_the_protocol():
    rules = settle("custom")
    assert names_of(" psnr, ssim,psnr,", rules) == names_of(["psnr", "ssim"], rules) == ["psnr", "ssim"]
    assert names_of(None, rules) == list(rules.metrics)


def test_fvd_takes_the_file_of_the_line_and_the_covariance_of_the_protocol(small_nets, monkeypatch):
    read = []
    from evals import fvd
    net = fvd.load_i3d(None)
    monkeypatch.setattr("evals.fvd.load_i3d", lambda path: read.append(path) or net)
    metric = make_metrics(["fvd"], settle("styleganv-16f"), {}, "mine.pt")["fvd"]
    assert read == ["mine.pt"] and metric.ddof == settle("styleganv-16f").ddof and is_of_sets(metric)


def test_weights_that_are_not_here_are_missed_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="download --name i3d"):
        check("psnr,fvd", settle("custom"), {}, None)


@pytest.mark.parametrize("call, words", [
    (lambda: settle("mcvd", known_frames="exlude"), 'did you mean "exclude"'),
    (lambda: settle("custom", resolution=0), "--resolution must be a positive number"),
    (lambda: names_of(" ,", settle("custom")), "names no metric"),
    (lambda: make_metrics(["psnr"], settle("custom"), {}, "x.pt"), "--i3d x.pt is for the metric fvd"),
    (lambda: make_metrics(["psnr"], settle("custom"), {"ssim_mcvd": {"binary": 1}}, None), "ssim_mcvd.binary is of a metric"),
])
def test_nonsense_is_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
