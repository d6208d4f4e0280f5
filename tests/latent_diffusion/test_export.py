"""What export writes is what there was: the same frames, in the same order, under the same names."""

import re

import numpy as np
import pytest
from fakes import autoencoder, autoencoder_payload, first_config
from media import flat, put_samples, save
from PIL import Image

from configs.flags import FLAGS
from latent_diffusion.export import FORMATS
from main import main
from tools import checkpoint
from tools.container import read_container
from tools.modelfile import read_model
from tools.video import num_frames, read_video

NAMES = ["00000_00", "00000_01", "00001_00", "00001_01"]


@pytest.fixture
def samples(tmp_path):
    """What sample wrote: two samples of two videos."""
    return put_samples(tmp_path / "run")


def export(source, out, *words):
    assert main(["--exp", "export", "--input", str(source), "--out", str(out), *map(str, words)]) == 0
    return out


def refused(capsys, *words):
    assert main(["--exp", "export", *map(str, words)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


def truth(samples, name):
    return np.load(samples / "samples" / f"{name}.npy")


@pytest.mark.parametrize("kind, close", [("mp4", 4), ("gif", 4), ("npy", 0), ("png", 0)])
def test_each_video_has_its_file(samples, tmp_path, kind, close):
    folder = export(samples, tmp_path / "out", "--format", kind)
    assert sorted(path.stem for path in folder.iterdir()) == NAMES
    for name in NAMES:
        back = read_video(folder / (name if kind == "png" else f"{name}.{kind}"))
        assert back.shape == truth(samples, name).shape
        assert np.abs(back.astype(int) - truth(samples, name)).max() <= close


def test_a_single_video_may_be_a_file_whose_ending_tells_the_format(samples, tmp_path):
    out = export(samples / "samples" / "00001_00.npy", tmp_path / "new" / "film.gif")
    assert num_frames(out) == 4
    assert num_frames(export(samples, tmp_path / "first.mp4", "--num_videos", 1)) == 4


def test_npz_holds_all_in_order(samples, tmp_path):
    with np.load(export(samples, tmp_path / "all.npz")) as file:
        assert file.files == ["arr_0"] and file["arr_0"].dtype == np.uint8
        assert np.array_equal(file["arr_0"], np.stack([truth(samples, name) for name in NAMES]))


def test_what_was_exported_can_be_exported_again(samples, tmp_path):
    bundle = export(samples, tmp_path / "all.npz")
    folder = export(bundle, tmp_path / "npy", "--format", "npy", "--num_videos", 2)
    assert [path.name for path in sorted(folder.iterdir())] == ["00000.npy", "00001.npy"]
    assert np.array_equal(np.load(folder / "00001.npy"), truth(samples, NAMES[1]))


def test_frames_a_second_are_those_asked_for(samples, tmp_path):
    import av
    with av.open(str(export(samples / "samples/00000_00.npy", tmp_path / "a.mp4", "--fps", 25))) as file:
        assert file.streams.video[0].average_rate == 25


def test_a_grid_has_a_place_for_each(samples, tmp_path):
    grid = read_container(export(samples, tmp_path / "grid.gif", "--format", "grid"), range(4))
    height, width = flat(0).shape[1:3]
    assert grid.shape[1:3] == (2 * height + 2, 2 * width + 2)
    for place, name in enumerate(NAMES):
        top, left = place // 2 * (height + 2), place % 2 * (width + 2)
        cell = grid[:, top:top + height, left:left + width]
        assert np.abs(cell.astype(int) - truth(samples, name)).max() <= 4


def test_a_grid_may_show_the_truth_left_of_the_first_sample(samples, tmp_path):
    save(samples / "samples/00000_01.npy", flat(9))
    grid = read_container(export(samples, tmp_path / "grid.gif", "--format", "grid", "--real", samples), range(4))
    height, width = flat(0).shape[1:3]
    left, right = grid[2, :height, :width].astype(int), grid[2, :height, width + 2:2 * width + 2].astype(int)
    assert grid.shape[1:3] == (2 * height + 2, 2 * width + 2)
    assert np.abs(left - flat(0)[2]).max() <= 4 and np.abs(right - flat(0)[2] - 5).max() <= 4  # samples are 5 too high


def test_a_picture_has_a_row_a_video_with_the_given_frames_in_red(samples, tmp_path):
    image = np.asarray(Image.open(export(samples, tmp_path / "strip.png", "--real", samples)))
    height, width = flat(0).shape[1:3]
    assert image.shape[:2] == (4 * (height + 2) + 2, 4 * (width + 2) + 2)
    assert np.array_equal(image[2:2 + height, 2:2 + width], flat(0)[0])
    assert tuple(image[0, 2]) == (220, 40, 40) and tuple(image[0, 3 * (width + 2) + 5]) == (255, 255, 255)


def test_a_model_becomes_safetensors_with_the_weights_asked_for(tmp_path):
    net = autoencoder(first_config())
    checkpoint.save(tmp_path / "model.pth", autoencoder_payload(net))
    back = read_model(export(tmp_path / "model.pth", tmp_path / "model.safetensors"))
    assert back.kind == "autoencoder" and checkpoint.state_hash(back.state) == checkpoint.state_hash(net.state_dict())


def test_tensorflow_weights_go_to_their_converter(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("evals.i3d_tensorflow.convert_i3d", lambda source, out: asked.append((source, out)) or out)
    export(tmp_path / "tf.npz", tmp_path / "i3d.pt", "--format", "i3d")
    assert asked == [(tmp_path / "tf.npz", tmp_path / "i3d.pt")] and "i3d.pt" in capsys.readouterr().out


CASES = {
    "no weights of TensorFlow": (["--input", "{samples}", "--out", "{tmp}/x.pt", "--format", "i3d"], ["cannot be read as npz"]),
    "no input": (["--out", "x.npz"], ["needs --input"]),
    "no out": (["--input", "{samples}"], ["needs --out"]),
    "an absent input": (["--input", "{tmp}/absent", "--out", "{tmp}/x.npz"], ["--input", "absent", "no such file"]),
    "no format": (["--input", "{samples}", "--out", "{tmp}/x"], ["--format", "mp4"]),
    "an unknown format": (["--input", "{samples}", "--out", "{tmp}/x", "--format", "mp5"], ["mp5", 'did you mean "mp4"']),
    "many into one": (["--input", "{samples}", "--out", "{tmp}/x.mp4"], ["4 videos", "--format grid"]),
    "frames into a file": (["--input", "{samples}", "--out", "{tmp}/x.png", "--format", "png"], ["give a folder"]),
    "npz of another name": (["--input", "{samples}", "--out", "{tmp}/x", "--format", "npz"], ["end in .npz"]),
    "grid of another name": (["--input", "{samples}", "--out", "{tmp}/x", "--format", "grid"], ["end in .mp4, .gif or .png"]),
    "truth without a grid": (["--input", "{samples}", "--out", "{tmp}/x.npz", "--real", "{samples}"], ["--real", "npz"]),
    "truth of others": (["--input", "{samples}", "--out", "{tmp}/x.png", "--real", "{tmp}/odd"], ["no video", "pairs by name"]),
    "over itself": (["--input", "{samples}", "--out", "{samples}/samples", "--format", "npy"], ["one of the videos of"]),
    "unlike videos as one array": (["--input", "{tmp}/odd", "--out", "{tmp}/x.npz"], ["one shape only"]),
    "unlike videos as a grid": (["--input", "{tmp}/odd", "--out", "{tmp}/x.png"], ["one size"]),
    "no speed": (["--input", "{samples}", "--out", "{tmp}/x.npz", "--fps", "0"], ["--fps must be positive"]),
    "no video": (["--input", "{samples}", "--out", "{tmp}/x.npz", "--num_videos", "0"], ["--num_videos must be at least 1"]),
}


@pytest.mark.parametrize("words, parts", CASES.values(), ids=CASES)
def test_errors_are_one_line_and_write_nothing(samples, tmp_path, capsys, words, parts):
    save(tmp_path / "odd/a.npy", flat(0))
    save(tmp_path / "odd/b.npy", flat(1, h=8))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    line = refused(capsys, *(word.replace("{samples}", str(samples)).replace("{tmp}", str(tmp_path)) for word in words))
    assert all(part in line for part in parts), line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_frames_of_an_older_export_are_not_mixed_in(samples, tmp_path, capsys):
    export(samples, tmp_path / "out", "--format", "png")
    assert "exists already" in refused(capsys, "--input", samples, "--out", tmp_path / "out", "--format", "png")


def test_every_format_is_told_in_the_help():
    (text,) = (flag.options["help"] for flags in FLAGS.values() for flag in flags if flag.name == "--format")
    assert set(FORMATS) <= set(re.findall(r"\w+", text))
