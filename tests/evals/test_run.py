import json

import imageio.v3 as imageio
import numpy as np
import pytest

from evals.run import evaluate, run, write_report
from tools.video import write_gif, write_mp4

T, H, W = 4, 16, 24


def video(seed, t=T, h=H, w=W):
    """Flat coloured frames: what every lossy format keeps to about one grey level."""
    colours = np.random.default_rng(seed).integers(40, 200, (t, 1, 1, 3), dtype=np.uint8)
    return np.tile(colours, (1, h, w, 1))


def shifted(frames, offset=5):
    return frames + np.uint8(offset)


def db(error):
    return 10 * np.log10(255 ** 2 / error)


def save(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, frames)


@pytest.fixture
def truth(tmp_path):
    for i in range(3):
        save(tmp_path / "real" / f"{i:05d}.npy", video(i))
    return tmp_path / "real"


def made(tmp_path, frames_of, names=("00000", "00001", "00002")):
    for name in names:
        save(tmp_path / "fake" / f"{name}.npy", frames_of(name))
    return tmp_path / "fake"


def mean(result, name="psnr"):
    return result["metrics"][name]["mean"]


# formats

def write_npy(folder, name, frames):
    save(folder / f"{name}.npy", frames)


def write_npz(folder, name, frames):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", frames)


def write_frames(folder, name, frames):
    (folder / name).mkdir(parents=True)
    for i, image in enumerate(frames):
        imageio.imwrite(folder / name / f"frame{i}.png", image)


def write_avi(folder, name, frames):
    import av
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(folder / f"{name}.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10, options={"q": "2"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuvj444p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


FORMATS = {"npy": (write_npy, 100), "npz": (write_npz, 100), "frames": (write_frames, 100),
           "gif": (lambda folder, name, frames: write_gif(folder / f"{name}.gif", frames), 100),
           "mp4": (lambda folder, name, frames: write_mp4(folder / f"{name}.mp4", frames), 35),
           "avi": (write_avi, 35)}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_reads_every_format_nested_or_not(truth, tmp_path, form, nested):
    write, least = FORMATS[form]
    for i in range(3):
        write(tmp_path / "fake" / (f"class{i % 2}/deep" if nested else ""), f"{i:05d}", video(i))
    result = evaluate(truth, tmp_path / "fake", metrics=["psnr"])
    assert result["n_real"] == result["n_fake"] == 3 and result["unpaired"] == {"real": [], "fake": []}
    assert mean(result) >= least


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("as_file", [True, False])
def test_reads_one_array_of_many_videos(truth, tmp_path, suffix, as_file):
    videos = np.stack([shifted(video(i)) for i in range(3)])
    path = tmp_path / "fake" / f"samples.{suffix}"
    path.parent.mkdir()
    np.save(path, videos) if suffix == "npy" else np.savez(path, videos)
    result = evaluate(truth, path if as_file else path.parent, metrics="psnr", batch_size=2)
    assert result["n_fake"] == 3 and mean(result) == pytest.approx(db(25))


def test_two_single_files_are_one_pair(tmp_path):
    save(tmp_path / "a.npy", video(0))
    save(tmp_path / "b.npy", shifted(video(0)))
    assert mean(evaluate(tmp_path / "a.npy", tmp_path / "b.npy", metrics=["psnr"])) == pytest.approx(db(25))


def test_grey_compares_as_three_equal_channels(tmp_path):
    grey = video(0)[..., :1]
    save(tmp_path / "real" / "v.npy", grey)
    save(tmp_path / "fake" / "v.npy", np.repeat(shifted(grey), 3, axis=-1))
    assert mean(evaluate(tmp_path / "real", tmp_path / "fake", metrics=["psnr"])) == pytest.approx(db(25))


# pairing

def test_videos_pair_by_name_not_by_order(truth, tmp_path):
    fake = made(tmp_path, lambda name: video(int(name)), names=("00002", "00001"))
    result = evaluate(truth, fake, metrics=["psnr"])
    assert mean(result) == 100 and (result["n_real"], result["n_fake"]) == (2, 2)


def test_several_samples_pair_each_with_their_video(truth, tmp_path):
    names = [f"{i:05d}_{k:02d}" for i in range(3) for k in range(2)]
    fake = made(tmp_path, lambda name: shifted(video(int(name[:5])), 3 + 2 * int(name[-2:])), names)
    result = evaluate(truth, fake, metrics=["psnr", "psnr_pooled"])
    assert result["n_fake"] == 6 and result["n_real"] == 3 and result["protocol"]["samples_per_video"] == 2
    assert mean(result) == pytest.approx((db(9) + db(25)) / 2) and mean(result, "psnr_pooled") == pytest.approx(db(17))
    assert result["metrics"]["psnr"]["ci95"] == pytest.approx(0, abs=1e-9)  # the videos agree, though samples differ


def test_a_name_that_ends_in_a_number_pairs_with_itself_first(tmp_path):
    for name, seed in (("v", 0), ("v_01", 1)):
        save(tmp_path / "real" / f"{name}.npy", video(seed))
    fake = made(tmp_path, lambda name: video(1), names=["v_01"])
    assert mean(evaluate(tmp_path / "real", fake, metrics=["psnr"])) == 100


def test_equal_stems_in_different_folders_are_never_mixed(tmp_path):
    for i, folder in enumerate(("cats", "dogs")):
        save(tmp_path / "real" / folder / "v1.npy", video(i))
        save(tmp_path / "fake" / folder / "v1_00.npy", video(i))
    save(tmp_path / "flat" / "dogs_v1.npy", video(1))  # the name a source gives it
    save(tmp_path / "vague" / "v1.npy", video(1))
    assert mean(evaluate(tmp_path / "real", tmp_path / "fake", metrics=["psnr"])) == 100
    assert mean(evaluate(tmp_path / "real", tmp_path / "flat", metrics=["psnr"])) == 100
    with pytest.raises(ValueError, match="pairs with"):
        evaluate(tmp_path / "real", tmp_path / "vague", metrics=["psnr"])


def test_what_pairs_with_nothing_is_listed_and_warned_of(truth, tmp_path, capsys):
    fake = made(tmp_path, lambda name: video(0), names=["00000", "other"])
    result = evaluate(truth, fake, metrics=["psnr"])
    assert result["unpaired"]["fake"] == [str(fake / "other.npy")] and len(result["unpaired"]["real"]) == 2
    captured = capsys.readouterr()
    assert "1 fake videos pair with nothing" in captured.err and captured.out == ""


# sample folders

@pytest.fixture
def sample_folder(tmp_path):
    """What `sample` writes: the first two of four frames were given, and come out exactly."""
    folder = tmp_path / "out"
    for i in range(2):
        save(folder / "real" / f"{i:05d}.npy", video(i))
        for k in range(2):
            frames = shifted(video(i))
            frames[:2] = video(i)[:2]
            save(folder / "samples" / f"{i:05d}_{k:02d}.npy", frames)
            write_mp4(folder / "videos" / f"{i:05d}_{k:02d}.mp4", frames)
    np.savez(folder / "samples.npz", np.stack([np.load(p) for p in sorted((folder / "samples").iterdir())]))
    write_gif(folder / "grid.gif", video(0))
    (folder / "sample.json").write_text(json.dumps({"known_frames": [0, 1], "samples_per_video": 2, "seed": 7}))
    return folder


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


def test_generated_videos_have_no_truth_to_compare_with(sample_folder):
    for file in (sample_folder / "real").iterdir():
        file.unlink()
    (sample_folder / "real").rmdir()
    with pytest.raises(ValueError, match="without real/"):
        evaluate(sample_folder, sample_folder, metrics=["psnr"])


@pytest.mark.parametrize("settings, words", [
    ('{"known_frames": [0, 1, 2, 3]}', "nothing to compare; use --known_frames include"),
    ('{"known_frames": [9]}', "frame 9 was given, but its videos have 4 frames"),
    ('{"known_frames": "0-1"}', "known_frames is 0-1; wanted a list"),
    ("{", "damaged JSON"),
    ("[]", "holds a list"),
])
def test_a_wrong_sample_json_is_an_error(sample_folder, settings, words):
    (sample_folder / "sample.json").write_text(settings)
    with pytest.raises(ValueError, match=words):
        evaluate(sample_folder, sample_folder, metrics=["psnr"])


# sizes

def test_resolution_brings_both_sides_to_one_size(tmp_path):
    save(tmp_path / "real" / "v.npy", video(0, h=32, w=48))
    fake = made(tmp_path, lambda name: shifted(video(0)), names=["v"])
    with pytest.raises(ValueError, match=r"fake/v.npy is 24x16 but .*real/v.npy is 48x32; .*--resolution 16"):
        evaluate(tmp_path / "real", fake, metrics=["psnr"])
    result = evaluate(tmp_path / "real", fake, metrics=["psnr", "ssim"], resolution=16)
    assert mean(result) == pytest.approx(db(25)) and result["protocol"]["resolution"] == [16, 16]
    assert "bilinear" in result["protocol"]["resize"]
    assert evaluate(tmp_path / "real", fake, metrics="psnr", resolution=[12, 20])["protocol"]["resolution"] == [12, 20]


def test_different_lengths_are_an_error_that_names_both(truth, tmp_path):
    fake = made(tmp_path, lambda name: video(0, t=3), names=["00001"])
    with pytest.raises(ValueError, match=r"fake/00001.npy has 3 frames but .*real/00001.npy has 4"):
        evaluate(truth, fake, metrics=["psnr"])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_videos_of_many_sizes_give_the_same_at_any_batch_size(tmp_path, batch_size):
    shapes = [(4, 16, 24), (4, 16, 24), (2, 16, 24), (4, 12, 12), (4, 16, 24)]
    for i, (t, h, w) in enumerate(shapes):
        save(tmp_path / "real" / f"v{i}.npy", video(i, t, h, w))
        save(tmp_path / "fake" / f"v{i}.npy", shifted(video(i, t, h, w), i + 1))
    result = evaluate(tmp_path / "real", tmp_path / "fake", metrics=["psnr"], batch_size=batch_size)
    assert mean(result) == pytest.approx(np.mean([db((i + 1) ** 2) for i in range(5)]))
    assert result["protocol"]["frames"] == [2, 4] and result["protocol"]["resolution"] == [[12, 12], [16, 24]]


# errors and output

@pytest.mark.parametrize("options, words", [
    ({"metrics": ["pnsr"]}, 'unknown metric "pnsr" .*did you mean "psnr"'),
    ({"metrics": ","}, "names no metric; choose from"),
    ({"metrics": "psnr", "known_frames": "exlude"}, 'did you mean "exclude"'),
    ({"metrics": "psnr", "protocol": "custm"}, 'did you mean "custom"'),
    ({"metrics": "psnr", "batch_size": 0}, "--batch_size must be positive"),
    ({"metrics": "psnr", "resolution": 0}, "--resolution must be a positive number"),
])
def test_wrong_options_are_one_line(truth, options, words):
    with pytest.raises(ValueError, match=words) as error:
        evaluate(truth, truth, **options)
    assert "\n" not in str(error.value)


def test_missing_empty_and_ambiguous_folders_are_errors(truth, tmp_path):
    (tmp_path / "empty").mkdir()
    write_gif(tmp_path / "double" / "00000.gif", video(0))
    save(tmp_path / "double" / "00000.npy", video(0))
    for folder, words in (("absent", "--fake .*no such file or folder"), ("empty", "holds no video"),
                          ("double", "have one name")):
        with pytest.raises(ValueError, match=words):
            evaluate(truth, tmp_path / folder, metrics=["psnr"])


def test_a_damaged_video_is_an_error(truth, tmp_path):
    fake = made(tmp_path, lambda name: video(0))
    (fake / "00001.npy").write_bytes((fake / "00001.npy").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"00001\.npy"):
        evaluate(truth, fake, metrics=["psnr"])


def test_a_truncated_bundle_is_an_error(truth, tmp_path):
    path = tmp_path / "samples.npy"
    np.save(path, np.stack([video(i) for i in range(3)]))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"ends inside video 2 of 3"):
        evaluate(truth, path, metrics=["psnr"])


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
