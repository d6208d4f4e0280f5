"""The command: what it says, what it refuses, and a kill -9 in the middle."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from media import encode, flat, names, put, put_frames
from PIL import Image
from records import example, write_records

from tools.fit import fit
from tools.packed import find_packed
from tools.prepare import main, parse_options, parse_size
from tools.sources import SOURCES
from tools.writers import write_mp4

ROOT = Path(__file__).parents[2]


def run(capsys, *words):
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


def small(tmp_path, **more):
    put(tmp_path / "raw/train/a.npy", 5, length=20)
    put(tmp_path / "raw/test/b.npy", 6, length=18)
    put(tmp_path / "raw/train/short.npy", 6, length=4)
    return ["VIDEOS", "--src", tmp_path / "raw", "--out", tmp_path / "out", "--size", "4x8", "--workers", 0]


def test_what_was_prepared_is_read_by_the_data_source(tmp_path, capsys):
    status, told, _ = run(capsys, *small(tmp_path))
    assert status == 0
    source = SOURCES.bind({"name": "VIDEOS", "split": "train"})(tmp_path / "out")
    assert names(source) == ["a"] and source.read(0).shape == (20, 4, 8, 3) and (source.read(0) == 5).all()
    assert "2 videos (test 1, train 1), 38 frames of 4x8x3" in told
    assert "left out: 1, all of them listed in" in told and "short: has 4 frames, wanted 16 (--min_frames)" in told


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    status, told, _ = run(capsys, *small(tmp_path), "--dry-run")
    assert status == 0 and "2 videos, 38 frames, 0.0 MB, 1 shards" in told and "short: has 4 frames" in told
    assert not (tmp_path / "out").exists()


def test_options_of_the_dataset(tmp_path, capsys):
    status, *_ = run(capsys, "SHAPES", "--src", tmp_path, "--out", tmp_path / "out", "--size", 8, "--workers", 0,
                     "count=2", "length=17")
    source = find_packed(tmp_path / "out", "test")
    assert status == 0 and len(source) == 2 and source.num_frames(0) == 17


def test_check(tmp_path, capsys):
    run(capsys, *small(tmp_path))
    status, told, _ = run(capsys, "--check", tmp_path / "out")
    assert status == 0 and "is whole: VIDEOS, 2 videos" in told
    shard = tmp_path / "out/shard-00000.bin"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    status, told, errors = run(capsys, "--check", tmp_path / "out")
    assert status == 2 and not told and "shard-00000.bin has changed" in errors


FRAMES = flat(t=20, h=64, w=64)


def put_kth(root):
    encode(root / "boxing/person01_boxing_d1_uncomp.avi", FRAMES, "mpeg4", qscale=1)
    (root / "00sequences.txt").write_text("person01_boxing_d1 frames 1-20")


def put_cityscapes(root):
    for number, image in enumerate(FRAMES):
        path = root / f"leftImg8bit_sequence/train/aachen/aachen_000000_{number:06d}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def put_carla(root):
    path = root / "no-traffic/video_0.pt"
    path.parent.mkdir(parents=True)
    torch.save(torch.from_numpy(FRAMES), path)
    (path.parent / "video_train.csv").write_text(",path\n0,video_0.pt\n")


def put_bair(root):
    pictures = {f"{t}/image_aux1/encoded": image.tobytes() for t, image in enumerate(FRAMES)}
    write_records(root / "train/traj_0_to_0.tfrecords", [example(pictures)])


DOWNLOADS = {
    "UCF101": lambda root: encode(root / "UCF-101/Run/v_Run_g01_c01.avi", FRAMES, "mpeg4", qscale=1),
    "CLEVRER": lambda root: write_mp4(root / "CLEVRER/video_train/video_00000-01000/video_00000.mp4", FRAMES),
    "SKY": lambda root: put_frames(root / "SkyTimelapse/train/a", FRAMES),
    "KTH": put_kth, "CITYSCAPES": put_cityscapes, "CARLA": put_carla, "BAIR": put_bair}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_every_download_is_prepared_and_read_under_its_name(tmp_path, capsys, name):
    DOWNLOADS[name](tmp_path / "raw")
    status, _, errors = run(capsys, name, "--src", tmp_path / "raw", "--out", tmp_path / "out", "--size", 64, "--workers", 0)
    assert status == 0, errors
    source = SOURCES.bind({"name": name, "split": "train"})(tmp_path / "out")
    grey = name == "KTH"
    wanted = fit(FRAMES, (64, 64), 1 if grey else 3).astype(int)
    assert len(source) == 1 and source.read(0).shape == wanted.shape
    assert np.abs(source.read(0) - wanted).max() <= (12 if name in ("UCF101", "CLEVRER", "KTH") else 0)
    assert source.label(0) == (0 if name in ("UCF101", "KTH") else None)


@pytest.mark.parametrize("change, why", [
    (("--size", "big"), "--size must be a number or HEIGHTxWIDTH, got big"),
    (("--size", "0"), "--size must be at least 1"),
    (("--resize", "zoom"), "invalid choice: 'zoom'"),
    (("--min_frames", "99"), "none of the 3 videos can be used"),
    (("--workers", "-1"), "--workers must be 0 or more, got -1"),
    (("--src", "absent"), "absent: no such folder or file"),
    (("--colour", "3"), "unrecognized arguments: --colour"),
    (("colour",), '"colour" is no KEY=VALUE'),
    (("colour=3",), 'has no option "colour"')])
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, change, why):
    status, _, errors = run(capsys, *small(tmp_path), *change)
    assert status == 2 and errors.startswith("error: ") and why in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("absent", ["VIDEOS", "--src", "--out", "--size"])
def test_what_is_missing_is_named(tmp_path, capsys, absent):
    words = small(tmp_path)
    at = words.index(absent)
    del words[at:at + (1 if absent == "VIDEOS" else 2)]
    status, _, errors = run(capsys, *words)
    assert status == 2 and f"{absent if absent.startswith('--') else 'NAME'} is missing" in errors


def test_words():
    assert parse_size("64") == (64, 64) and parse_size("48x64") == (48, 64)
    assert parse_options(["camera=main", "count=-3", "segments=false", "x=a=b"]) == {
        "camera": "main", "count": -3, "segments": False, "x": "a=b"}


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("--src", "--min_frames", "--check", "UCF101", "CITYSCAPES is leftImg8bit_sequence"):
        assert word in told


SHAPES = ("SHAPES", "--src", ".", "--size", "32", "--shard_mb", "0.001", "count=60", "length=16", "size=96")


def test_killed_and_gone_on_equals_not_killed(tmp_path, capsys):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-m", "tools.prepare", *SHAPES, "--out", str(out), "--workers", "1"],
                               cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while len(list(out.glob("shard-*.json"))) < 3:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "no shard came"
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=120)  # the pipe closes when the last of its processes has ended
    made = [out / path.stem for path in out.glob("shard-*.json")]
    before = {path: path.stat().st_mtime_ns for path in made}
    assert process.returncode == -9 and not (out / "manifest.json").exists() and 3 <= len(before) < 120
    assert run(capsys, *SHAPES, "--out", out, "--workers", 0)[0] == 0
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert run(capsys, *SHAPES, "--out", tmp_path / "whole", "--workers", 0)[0] == 0
    for path in (tmp_path / "whole").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    np.testing.assert_array_equal(find_packed(out, "test").read(3), find_packed(tmp_path / "whole", "test").read(3))
