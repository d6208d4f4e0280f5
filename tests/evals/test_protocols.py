"""Protocols by name: each can be read, and what is asked for in another way renames just the metrics that it decides."""

import pytest

from evals.protocol import METRICS
from evals.protocols import DECIDES, PAIRS, SETS, load_rules, protocol_names, split_changes

NAMED = ["styleganv-16f", "styleganv-128f", "styleganv-128f-s8", "styleganv-sorted", "pvdm", "mcvd", "ramvid", "fdm", "custom"]


def test_the_protocols_of_the_contract_are_there():
    assert set(protocol_names()) == set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_a_protocol_names_metrics_that_exist_and_renames_none(name):
    rules = load_rules(name)
    assert rules.about and rules.changes == ()
    assert [rules.label(metric, PAIRS) for metric in rules.metrics] == list(rules.metrics)
    assert all(metric in METRICS for metric in rules.metrics)


@pytest.mark.parametrize("name, reach", [("pvdm", 16), ("styleganv-128f", 128), ("styleganv-128f-s8", 121), ("fdm", None)])
def test_frames_reach_over_as_much_of_a_video_as_published(name, reach):
    assert load_rules(name).span == reach


def test_styleganv_divides_by_n_and_its_sorted_form_differs_in_the_selection_alone():
    drawn, first = load_rules("styleganv-16f"), load_rules("styleganv-sorted")
    assert {key for key in DECIDES if getattr(drawn, key) != getattr(first, key)} == {"selection"} and drawn.ddof == 0
    assert {load_rules(name).ddof for name in NAMED if not name.startswith("styleganv")} == {1}


@pytest.mark.parametrize("changes, fvd, psnr", [
    ({"frames": 32}, "fvd[frames=32]", "psnr[frames=32]"),
    ({"frames": 16}, "fvd", "psnr"),
    ({"n_real": 5, "ddof": 1}, "fvd[n_real=5,ddof=1]", "psnr"),
    ({"samples": "best"}, "fvd", "psnr[samples=best]"),
    ({"known_frames_sets": "exclude", "known_frames": "exclude"}, "fvd[known_frames=exclude]", "psnr"),
    ({"known_frames_sets": "both"}, "fvd", "psnr"),
    ({"resolution": [64, 96]}, "fvd[resolution=64x96]", "psnr[resolution=64x96]"),
    ({"sampling.num_videos": 4}, "fvd[num_videos=4]", "psnr[num_videos=4]"),
    ({"seed": 3, "seeds": 2, "on_error": "skip"}, "fvd", "psnr"),
])
def test_a_change_renames_the_metrics_that_it_decides(changes, fvd, psnr):
    rules = load_rules("styleganv-16f").changed(changes)
    assert (rules.label("fvd", SETS), rules.label("psnr", PAIRS)) == (fvd, psnr)


def test_a_change_and_back_is_none():
    rules = load_rules("pvdm").changed({"frames": 32, "sampling.steps": "50"})
    assert rules.changed({"frames": 16, "sampling.steps": "400/20"}) == load_rules("pvdm")


def test_custom_fixes_nothing_but_an_option_of_a_metric_is_told():
    rules = load_rules("custom").changed({"frames": 32})
    assert rules.label("psnr", PAIRS) == "psnr" and rules.label("lpips", PAIRS, {"net": "vgg"}) == "lpips[net=vgg]"


@pytest.mark.parametrize("changes, words", [
    ({"frame": 3}, r'unknown key "protocol.frame" \(did you mean "frames"\?\)'), ({"name": "x"}, "unknown key"),
    ({"frames": 0}, "frames must be at least 1, got 0"), ({"frames": "many"}, "at least 1, got many"),
    ({"stride": None}, "stride must be"), ({"ddof": 2}, "ddof must be 0 or 1, got 2"),
    ({"selection": "sort"}, 'did you mean "sorted"'), ({"seed": 0.5}, "whole number"),
])
def test_nonsense_is_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        load_rules("pvdm").changed(changes)
    assert "\n" not in str(error.value)


def test_the_keys_of_a_line_are_sorted_by_owner():
    line = ["protocol.frames=32", "ssim_mcvd.binary=true", "data.split=all", "protocol.resolution=[8, 9]", "guidance.low=0"]
    assert split_changes(line) == ({"frames": 32, "resolution": [8, 9]}, {"ssim_mcvd": {"binary": True}},
                                   ["data.split=all", "guidance.low=0"])


@pytest.mark.parametrize("item", ["protocol.frames", "protocol.frames=", "protocol=3", "protocol.frames=[", "lpips.sise=3"])
def test_a_key_that_cannot_be_read_is_refused(item):
    with pytest.raises(ValueError):
        split_changes([item])
