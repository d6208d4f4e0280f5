import json
import os
import subprocess
import sys

import numpy as np
import pytest
from media import flat, put_samples, save

from evals.provenance import revision
from evals.request import settle
from evals.run import evaluate, run, write_report
from tests.tiny import environment


def shifted(frames, offset=5):
    return frames + np.uint8(offset)


def db(error):
    return 10 * np.log10(255 ** 2 / error)


@pytest.fixture
def truth(tmp_path):
    for i in range(3):
        save(tmp_path / "real" / f"{i:05d}.npy", flat(i))
    return tmp_path / "real"


def made(tmp_path, frames_of, names=("00000", "00001", "00002")):
    for name in names:
        save(tmp_path / "fake" / f"{name}.npy", frames_of(name))
    return tmp_path / "fake"


def mean(result, name="psnr"):
    return result["metrics"][name]["mean"]


# pairing

def test_several_samples_pair_each_with_their_video(truth, tmp_path):
    names = [f"{i:05d}_{k:02d}" for i in range(3) for k in range(2)]
    fake = made(tmp_path, lambda name: shifted(flat(int(name[:5])), 3 + 2 * int(name[-2:])), names)
    result = evaluate(truth, fake, metrics=["psnr", "psnr_pooled"])
    assert result["n_fake"] == 6 and result["n_real"] == 3 and result["protocol"]["samples_per_video"] == 2
    assert mean(result) == pytest.approx((db(9) + db(25)) / 2) and mean(result, "psnr_pooled") == pytest.approx(db(17))
    assert result["metrics"]["psnr"]["ci95"] == pytest.approx(0, abs=1e-9)  # the videos agree, though samples differ


def test_what_pairs_with_nothing_is_listed_and_warned_of(truth, tmp_path, capsys):
    fake = made(tmp_path, lambda name: flat(0), names=["00000", "other"])
    result = evaluate(truth, fake, metrics=["psnr"])
    assert result["unpaired"]["fake"] == [str(fake / "other.npy")] and len(result["unpaired"]["real"]) == 2
    captured = capsys.readouterr()
    assert "1 fake videos pair with nothing" in captured.err and captured.out == ""


def test_two_sets_without_a_pair_are_an_error_that_shows_names_of_both(truth, tmp_path):
    fake = made(tmp_path, lambda name: flat(0), names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"no name in .*fake \(a, b, ...\) pairs with one in .*real \(00000, 00001, ...\)"):
        evaluate(truth, fake, metrics=["psnr"])


# sample folders

@pytest.fixture
def sample_folder(tmp_path):
    return put_samples(tmp_path / "out")


@pytest.mark.parametrize("fake", ["", "samples", "samples.npz"])
@pytest.mark.parametrize("real", ["", "real"])
def test_a_sample_folder_is_understood(sample_folder, real, fake):
    result = evaluate(sample_folder / real, sample_folder / fake, metrics=["psnr"])
    assert (result["n_real"], result["n_fake"]) == (2, 4) and mean(result) == pytest.approx(db(25))
    protocol = result["protocol"]
    assert (protocol["known_frames"], protocol["known"], protocol["frames_compared"]) == ("exclude", [0, 1], [2, 3])
    assert protocol["samples_per_video"] == 2 and protocol["sample"]["seed"] == 7


def test_the_windows_beside_samples_and_the_revision_of_the_program_are_told(sample_folder):
    windows = {"dataset_hash": "abc", "windows": [{"video": "v", "start": 3}]}
    (sample_folder / "windows.json").write_text(json.dumps(windows))
    protocol = evaluate(sample_folder, sample_folder, metrics=["psnr"])["protocol"]
    assert protocol["windows"] == windows and protocol["versions"]["revision"] == revision()


def test_known_frames_are_left_out_unless_told_otherwise(sample_folder):
    left_out = evaluate(sample_folder, sample_folder, metrics=["psnr", "psnr_pooled"])
    taken = evaluate(sample_folder, sample_folder, metrics=["psnr", "psnr_pooled"], known_frames="include")
    assert mean(left_out) == pytest.approx(db(25)) and mean(taken) == pytest.approx((100 + db(25)) / 2)
    assert mean(taken, "psnr_pooled") == pytest.approx(db(12.5))
    assert taken["protocol"]["known_frames"] == "include" and taken["protocol"]["frames_compared"] == [0, 1, 2, 3]
    assert len(left_out["metrics"]["psnr"]["per_frame"]) == 2 and len(taken["metrics"]["psnr"]["per_frame"]) == 4


@pytest.mark.parametrize("settings, words", [
    ('{"known_frames": [0, 1, 2, 3]}', "nothing to compare; use --known_frames include"),
    ('{"known_frames": [9]}', "frame 9 was given, but its videos have 4 frames"),
    ('{"known_frames": "0-1"}', "known_frames is 0-1; wanted a list"),
])
def test_a_wrong_sample_json_is_an_error(sample_folder, settings, words):
    (sample_folder / "sample.json").write_text(settings)
    with pytest.raises(ValueError, match=words):
        evaluate(sample_folder, sample_folder, metrics=["psnr"])


# sizes

def test_resolution_brings_both_sides_to_one_size(tmp_path):
    save(tmp_path / "real" / "v.npy", flat(0, h=32, w=48))
    fake = made(tmp_path, lambda name: shifted(flat(0)), names=["v"])
    with pytest.raises(ValueError, match=r"fake/v.npy is 24x16 but .*real/v.npy is 48x32; .*--resolution 16"):
        evaluate(tmp_path / "real", fake, metrics=["psnr"])
    result = evaluate(tmp_path / "real", fake, metrics=["psnr", "ssim"], resolution=16)
    assert mean(result) == pytest.approx(db(25)) and result["protocol"]["resolution"] == [16, 16]
    assert "bilinear" in result["protocol"]["resize"]
    assert evaluate(tmp_path / "real", fake, metrics="psnr", resolution=[12, 20])["protocol"]["resolution"] == [12, 20]


def test_different_lengths_are_an_error_that_names_both(truth, tmp_path):
    fake = made(tmp_path, lambda name: flat(0, t=3), names=["00001"])
    with pytest.raises(ValueError, match=r"fake/00001.npy has 3 frames but .*real/00001.npy has 4"):
        evaluate(truth, fake, metrics=["psnr"])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_videos_of_many_sizes_give_the_same_at_any_batch_size(tmp_path, batch_size):
    shapes = [(4, 16, 24), (4, 16, 24), (2, 16, 24), (4, 12, 12), (4, 16, 24)]
    for i, (t, h, w) in enumerate(shapes):
        save(tmp_path / "real" / f"v{i}.npy", flat(i, t, h, w))
        save(tmp_path / "fake" / f"v{i}.npy", shifted(flat(i, t, h, w), i + 1))
    result = evaluate(tmp_path / "real", tmp_path / "fake", metrics=["psnr"], batch_size=batch_size)
    assert mean(result) == pytest.approx(np.mean([db((i + 1) ** 2) for i in range(5)]))
    assert result["protocol"]["frames"] == [2, 4] and result["protocol"]["resolution"] == [[12, 12], [16, 24]]


# sets, and protocols

def level(value, t=16, size=16):
    """A video of which the small network says `value` eight times; it moves, that nobody is warned."""
    frames = np.full((t, size, size, 3), value, np.uint8)
    frames[0, ..., 0] += 1
    return frames


@pytest.fixture
def sets(tmp_path, small_nets):
    """Five true videos of 20 frames in folders, and three made ones of 16 with other names."""
    for i, value in enumerate((100, 110, 120, 130, 140)):
        save(tmp_path / "real" / "abcab"[i] / f"r{i}.npy", level(value, t=20))
    for i, value in enumerate((150, 160, 170)):
        save(tmp_path / "fake" / f"x{i}.npy", level(value))
    return tmp_path / "real", tmp_path / "fake"


def test_sets_need_neither_names_nor_equal_numbers(sets):
    result = evaluate(*sets, metrics="fvd,inception_score")
    fvd = result["metrics"]["fvd"]
    # The small network gives eight equal numbers: (40^2 + (s - r)^2) * 8, with s, r the standard deviations of the levels.
    assert fvd["mean"] == pytest.approx(8 * (40 ** 2 + (10 - 250 ** 0.5) ** 2), rel=1e-3)
    assert (result["n_real"], result["n_fake"]) == (5, 3) and result["protocol"]["sets"]["frames"] == 16
    assert result["metrics"]["inception_score"]["n"] == 3 and result["unpaired"] == {"real": [], "fake": []}
    assert any("a perfect model would score" in words for words in result["warnings"])


def test_sets_of_two_sizes_are_refused(sets):
    save(sets[1] / "x0.npy", level(9, size=24))
    with pytest.raises(ValueError, match=r"x0.npy is 24x24 but .* is 16x16; .*--resolution 16"):
        evaluate(*sets, metrics="fvd")
    assert evaluate(*sets, metrics="fvd", resolution=16)["protocol"]["resolution"] == [16, 16]


def test_a_changed_protocol_renames_what_it_measures(sets):
    drawn = settle("styleganv-16f", changes={"n_real": 4, "ddof": 1})
    result = evaluate(*sets, protocol=drawn, i3d="weights.pt")
    assert list(result["metrics"]) == ["fvd[n_real=4,ddof=1]"]
    assert result["n_real"] == 4 and result["protocol"]["changes"] == ["n_real", "ddof"]
    assert list(evaluate(*sets, protocol="styleganv-16f", i3d="weights.pt")["metrics"]) == ["fvd"]


def test_features_of_true_videos_are_looked_at_once(sets, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_CACHE", str(tmp_path / "cache"))
    for path in sets[0].rglob("*.npy"):
        os.utime(path, (1e9, 1e9))
    first = evaluate(*sets, metrics="fvd")
    monkeypatch.setattr("evals.fvd.FrechetVideoDistance.update_real", lambda *_: 1 / 0)
    again = evaluate(*sets, metrics="fvd")
    kept = [r["protocol"]["sets"]["real_features"]["fvd"]["from_cache"] for r in (first, again)]
    assert kept == [False, True] and again["metrics"] == first["metrics"]


def test_several_seeds_draw_other_true_videos(sets):
    result = evaluate(*sets, metrics="fvd", protocol=settle("custom", changes={"n_real": 3, "seeds": 3}))
    alone = [evaluate(*sets, metrics="fvd", protocol=settle("custom", changes={"n_real": 3, "seed": s})) for s in range(3)]
    assert result["metrics"]["fvd"]["seeds"]["values"] == [mean(one, "fvd") for one in alone]
    assert len({mean(one, "fvd") for one in alone}) > 1


@pytest.fixture
def predictions(tmp_path, small_nets):
    """Two samples of each of three videos, the first four of 16 frames given; the second sample is nearer."""
    for i in range(3):
        save(tmp_path / "out" / "real" / f"{i:05d}.npy", level(100 + i))
        for k, far in enumerate((20, 10)):
            frames = level(100 + i)
            frames[4:] += np.uint8(far)
            save(tmp_path / "out" / "samples" / f"{i:05d}_{k:02d}.npy", frames)
    (tmp_path / "out" / "sample.json").write_text(json.dumps({"known_frames": [0, 1, 2, 3], "samples_per_video": 2}))
    return tmp_path / "out"


def test_mcvd_takes_the_best_sample_and_fvd_with_given_frames_and_without(predictions):
    result = evaluate(predictions, predictions, metrics="psnr_mcvd,fvd", protocol="mcvd")
    assert mean(result, "psnr_mcvd") == pytest.approx(db(100))
    metrics = result["metrics"]
    assert set(metrics) == {"psnr_mcvd", "fvd", "fvd[known_frames=exclude]"}
    assert [metrics[k]["known_frames"] for k in ("fvd", "fvd[known_frames=exclude]")] == ["include", "exclude"]
    # Means move by 15 over all made frames, and by 12 / 16 of that over all frames.
    assert metrics["fvd"]["mean"] < 0.7 * metrics["fvd[known_frames=exclude]"]["mean"]
    assert metrics["fvd"]["trajectories"]["k"] == 2
    assert any("fewer than the 10 samples" in words for words in result["warnings"])


def test_fvd_counts_given_frames_unless_told_otherwise(predictions):
    plain, less = (evaluate(predictions, predictions, metrics="fvd", known_frames=rule)["metrics"]["fvd"]
                   for rule in (None, "exclude"))
    assert (plain["known_frames"], less["known_frames"]) == ("include", "exclude") and plain["mean"] < 0.7 * less["mean"]


def test_frames_of_both_are_cut_alike(truth, tmp_path):
    fake = made(tmp_path, lambda name: np.concatenate([shifted(flat(int(name))), flat(9)]))
    result = evaluate(truth, fake, metrics="psnr", protocol=settle("custom", changes={"frames": 2, "stride": 2}))
    assert mean(result) == pytest.approx(db(25)) and result["protocol"]["frames_compared"] == [0, 2]
    with pytest.raises(ValueError, match="has 4 frames, but 5 count"):
        evaluate(truth, fake, metrics="psnr", protocol=settle("custom", changes={"frames": 5}))


def test_what_reconstruct_wrote_is_compared_at_its_size(tmp_path):
    save(tmp_path / "videos" / "sub" / "v.npy", flat(0, h=32, w=48))
    save(tmp_path / "out" / "recon" / "v.npy", shifted(flat(0, h=16, w=16)))
    save(tmp_path / "out" / "latent" / "v.npy", np.zeros((4, 9), np.float32))
    (tmp_path / "out" / "metrics.json").write_text("{}")
    for fake in ("out", "out/recon"):
        result = evaluate(tmp_path / "videos", tmp_path / fake, metrics="psnr")
        assert mean(result) == pytest.approx(db(25)) and "the size of the reconstruction" in result["protocol"]["resize"]


def test_damaged_videos_are_skipped_and_listed_if_asked_for(truth, tmp_path):
    fake = made(tmp_path, lambda name: shifted(flat(int(name))))
    (fake / "00001.npy").write_bytes((fake / "00001.npy").read_bytes()[:200])
    result = evaluate(truth, fake, metrics="psnr", protocol=settle("custom", changes={"on_error": "skip"}))
    assert result["metrics"]["psnr"]["n"] == 2 and len(result["dropped"]) == 1 and "00001.npy" in result["dropped"][0]
    assert any("1 videos are left out" in words for words in result["warnings"])


@pytest.mark.parametrize("options, words", [({"i3d": "x"}, "--i3d x is for the metric fvd"),
                                            ({"options": {"lpips": {"size": 8}}}, "lpips.size is of a metric")])
def test_options_of_metrics_that_are_not_asked_for_are_refused(truth, options, words):
    with pytest.raises(ValueError, match=words):
        evaluate(truth, truth, metrics="psnr", **options)


ALL_KINDS = "psnr,ssim,fvd,inception_score,diversity"
WORKER = """
import json, sys
import evals.fvd, evals.inception_score
from evals.run import evaluate
from tests.evals.conftest import MeanNet
from tools import dist
dist.start()
evals.fvd.load_i3d = evals.inception_score.load_c3d = lambda path=None: MeanNet()
for fake in sys.argv[2:4]:
    try:
        result = evaluate(sys.argv[1], fake, metrics=sys.argv[4], batch_size=3)
    except ValueError as error:
        result = {"metrics": str(error)}
    if dist.is_main():
        print(json.dumps(result["metrics"]))
dist.stop()
"""


def test_two_processes_give_the_digits_of_one_and_its_errors(tmp_path, small_nets):
    rng = np.random.default_rng(0)
    for i in range(5):
        for side, names in (("real", [""]), ("fake", ["_00", "_01"]), ("bad", ["_00", "_01"])):
            for name in names:  # the two samples of some videos fall to two processes
                save(tmp_path / side / f"v{i}{name}.npy", rng.integers(0, 256, (3, 16, 16, 3), np.uint8))
    save(tmp_path / "bad" / "v3_00.npy", flat(0, t=2, h=16, w=16))  # of the second process
    (tmp_path / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "worker.py")]
    done = subprocess.run([*launch, *(str(tmp_path / side) for side in ("real", "fake", "bad")), ALL_KINDS], env=environment(),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    good, bad = map(json.loads, done.stdout.splitlines())
    alone = evaluate(tmp_path / "real", tmp_path / "fake", metrics=ALL_KINDS, batch_size=3)["metrics"]
    assert good == json.loads(json.dumps(alone)) and "v3_00.npy has 2 frames" in bad
    assert alone["fvd"]["n"] == 10 and alone["fvd"]["mean"] > 0 and alone["diversity"]["samples_per_video"] == 2


# errors and output

@pytest.mark.parametrize("options, words", [
    ({"metrics": ["pnsr"]}, 'unknown metric "pnsr" .*did you mean "psnr"'),
    ({"metrics": ","}, "names no metric; choose from"),
    ({"metrics": "psnr", "known_frames": "exlude"}, 'did you mean "exclude"'),
    ({"metrics": "psnr", "protocol": "custm"}, 'did you mean "custom"'),
    ({"metrics": "psnr", "batch_size": 0}, "--batch_size must be at least 1, got 0"),
    ({"metrics": "psnr", "resolution": 0}, "--resolution must be a positive number"),
])
def test_wrong_options_are_one_line(truth, options, words):
    with pytest.raises(ValueError, match=words) as error:
        evaluate(truth, truth, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["batch_size", "resolution"])
def test_the_command_takes_no_zero_for_not_given(truth, tmp_path, option):
    with pytest.raises(ValueError, match=f"--{option} must be .*, got 0") as error:
        run(real=str(truth), fake=str(truth), metrics="psnr", out=str(tmp_path / "r.json"), **{option: 0})
    assert "\n" not in str(error.value) and not (tmp_path / "r.json").exists()


def test_a_damaged_video_is_an_error(truth, tmp_path):
    fake = made(tmp_path, lambda name: flat(0))
    (fake / "00001.npy").write_bytes((fake / "00001.npy").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"00001\.npy"):
        evaluate(truth, fake, metrics=["psnr"])


def test_the_command_writes_json_and_shows_progress_on_stderr(truth, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("evals.passes.BAR_DELAY", 0)
    out = tmp_path / "new" / "folder" / "result.json"
    run(real=str(truth), fake=str(truth), metrics="psnr,psnr_pooled,ssim", out=str(out))
    result = json.loads(out.read_text())
    assert {name: value["mean"] for name, value in result["metrics"].items()} == \
        {"psnr": 100, "psnr_pooled": 100, "ssim": pytest.approx(1)}
    captured = capsys.readouterr()
    assert "evaluate" in captured.err and "psnr" in captured.out and str(out) in captured.out
    assert list(out.parent.iterdir()) == [out]
    run(real=str(truth), fake=str(truth), metrics="psnr")
    assert json.loads(capsys.readouterr().out)["n_real"] == 3  # without --out, stdout is the JSON


def test_a_folder_for_the_report_is_refused_before_anything_is_compared(truth, tmp_path, monkeypatch):
    monkeypatch.setattr("evals.run.evaluate", lambda *args, **options: pytest.fail("compares"))
    with pytest.raises(ValueError, match=r"is a folder, .*use --out .*metrics\.json"):
        run(real=str(truth), fake=str(truth), metrics="psnr", out=str(tmp_path))


def test_small_numbers_are_printed_with_their_digits(truth, tmp_path, capsys):
    run(real=str(truth), fake=str(made(tmp_path, lambda name: shifted(flat(int(name)), 1))), metrics="mse,psnr",
        out=str(tmp_path / "r.json"))
    words = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert words["mse"] == f"{1 / 255 ** 2:.4g}" and words["psnr"] == f"{db(1):.4f}"


def test_what_a_metric_warns_of_is_told(truth, tmp_path, capsys, small_nets):
    result = evaluate(truth, made(tmp_path, lambda name: shifted(flat(int(name)))), metrics=["fvd"])
    assert result["metrics"]["fvd"]["n"] == 3 and "warning: fvd: 3 true and 3 made videos" in capsys.readouterr().err


def test_a_video_that_is_looked_at_for_pairs_and_for_sets_is_no_copy(truth, tmp_path, small_nets):
    result = evaluate(truth, made(tmp_path, lambda name: shifted(flat(int(name)))), metrics=["psnr", "fvd"])
    assert not any("copies" in words for words in result["warnings"])


def test_the_command_needs_both_sides(truth):
    with pytest.raises(ValueError, match="needs --fake"):
        run(real=str(truth), fake=None, metrics="psnr")


def test_a_report_is_valid_json_or_not_written(tmp_path):
    write_report(tmp_path / "r.json", {"mean": 1})
    with pytest.raises(ValueError):
        write_report(tmp_path / "r.json", {"mean": float("nan")})
    assert json.loads((tmp_path / "r.json").read_text()) == {"mean": 1}


def test_real_video_against_itself_and_a_step_later(video_data, tmp_path):
    from tools.video import read_video
    episode = sorted((video_data / "metaworld").rglob("*.mp4"))[0]
    frames = read_video(episode, 0, 17)
    save(tmp_path / "real" / "v.npy", frames[:-1])
    save(tmp_path / "same" / "v.npy", frames[:-1])
    save(tmp_path / "late" / "v.npy", frames[1:])
    same = evaluate(tmp_path / "real", tmp_path / "same", metrics="psnr,ssim")
    late = evaluate(tmp_path / "real", tmp_path / "late", metrics="psnr,ssim")
    assert mean(same) == 100 and mean(same, "ssim") == pytest.approx(1)
    assert mean(late) < 60 and mean(late, "ssim") < 1
