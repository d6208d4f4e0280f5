import json

import numpy as np
import pytest
from media import flat, put_samples, save

from evals.run import evaluate, run, write_report


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
    monkeypatch.setattr("evals.run.BAR_DELAY", 0)
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


def test_what_a_metric_warns_of_is_told(truth, tmp_path, capsys, small_nets):
    result = evaluate(truth, made(tmp_path, lambda name: shifted(flat(int(name)))), metrics=["fvd"])
    assert result["metrics"]["fvd"]["n"] == 3 and "warning: fvd: 3 true and 3 made videos" in capsys.readouterr().err


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
