"""The tables: what is best, what may be compared, what differs."""

from pathlib import Path

from outline import Outline

from evals.report_sources import Result, Training
from evals.report_tables import comparable, described, differences, metrics, settings_table, spans, summary


def result(name, protocol=None, **means):
    values = {metric: {"mean": mean, "ci95": half, "n": 4} for metric, (mean, half) in means.items()}
    return Result(Path(name), values, protocol or {}, name)


def run(name, curves, settings=None):
    return Training(Path(name), "Autoencoder", settings or {"loop.steps": 9, "data.name": "SKY"}, curves, [], name)


def cells(text):
    return [word.strip() for word in Outline(text).words if word.strip()]


def bold(text):
    """What is in strong letters."""
    found, inside = [], False
    for part in text.replace("<", "\n<").splitlines():
        inside = part.startswith("<strong>") or (inside and not part.startswith("<"))
        found += [part.removeprefix("<strong>")] if inside else []
    return found


def test_the_best_is_bold_in_the_direction_of_the_metric():
    text = metrics([result("a", psnr=(20.0, 1.0), lpips=(0.3, 0.01), odd=(1, None)),
                    result("b", psnr=(21.0, 0.5), lpips=(0.4, 0.01), odd=(2, None))], {"a": 0, "b": 1})
    assert bold(text) == ["0.3000", "21.00"]
    assert {"20.00", "± 1.00", "0.4000", "± 0.0100", "psnr ↑", "lpips ↓", "odd"} <= set(cells(text))


def test_a_single_result_and_an_absent_metric_are_plain():
    assert not bold(metrics([result("a", psnr=(20, 1))], {"a": 0}))
    words = cells(metrics([result("a", psnr=(20, None)), result("b", ssim=(0.5, None))], {"a": 0, "b": 1}))
    assert words.count("–") == 2 and not any("±" in word for word in words)


def test_only_what_was_measured_alike_shares_a_table():
    same = {"name": "custom", "frames_compared": [8, 9], "real": "x/real", "fake": "x"}
    kept = [result("a", same), result("b", same | {"fake": "y", "versions": {"torch": "2"}})]
    for other in ({"frames_compared": [9]}, {"resolution": [64, 64]}, {"known_frames": "include"}, {"real": "y/real"}):
        assert comparable([*kept, result("c", same | other)]) == [kept, [result("c", same | other)]]


def test_the_same_windows_in_other_folders_are_the_same_videos():
    def one(folder, start):
        sample = {"videos": [{"video": 0, "name": "clip", "start": start}], "data_stride": 1}
        return result(folder, {"real": f"{folder}/real", "sample": sample}, psnr=(20, 1))

    assert len(comparable([one("a", 0), one("b", 0)])) == 1 and len(comparable([one("a", 0), one("b", 8)])) == 2


def test_the_protocol_is_told():
    text = described([result("a", {"name": "custom", "frames_compared": [4, 5, 6, 9], "resolution": [48, 64],
                                   "known_frames": "exclude", "samples_per_video": 3})])
    assert text == "custom protocol, frames 4-6, 9, 64×48 pixels, given frames left out, 3 samples a video."
    assert "No protocol" in described([result("a")])


def test_spans_of_frames():
    assert spans([0, 1, 2, 3, 12]) == "0-3, 12" and spans([]) == "" and spans([5]) == "5"


def test_settings_that_differ_and_only_those():
    a, b = {"optim.lr": 1e-3, "seed": 1, "only": None}, {"optim.lr": 1e-4, "seed": 1}
    assert differences([a, b]) == [("optim.lr", [1e-3, 1e-4]), ("only", [None, "–"])]
    words = cells(settings_table({0: "a", 1: "b"}, [a, b]))
    assert {"optim.lr", "0.001", "0.0001", "only", "none", "–"} <= set(words) and "seed" not in words
    assert "the same" in settings_table({0: "a", 1: "b"}, [a, a])


def test_the_summary_tells_how_far_and_how_good():
    curves = {"psnr": {"validate": ([3, 6], [21.0, 20.0])}, "loss": {"train": ([1, 7], [0.5, 0.4]), "validate": ([3], [0.3])},
              "steps_per_second": {"train": ([1, 2, 3], [1.0, 4.0, 2.0])}}
    words = cells(summary([run("a", curves)]))
    assert {"7 of 9", "2", "SKY", "Autoencoder"} <= set(words)
    assert bold(summary([run("a", curves)])) == ["0.3", "21"] and "at 3, last 20" in words
    assert "9" in cells(summary([run("a", {"loss": {"train": ([9], [1.0])}})]))  # finished: no "of"


def test_what_others_wrote_is_quoted():
    assert "<b>" not in metrics([result("<b>", **{"<b>": (1, None)})], {"<b>": 0})
    assert "<b>" not in settings_table({0: "<b>"}, [{"<b>": "<b>"}, {}]) and "<b>" not in summary([run("<b>", {})])
    assert "<b>" not in described([result("a", {"name": "<b>"})])
