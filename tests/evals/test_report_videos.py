"""The videos of a page: the truth beside what was made of it, each once, playable and to the pixel's size."""

import base64
import io
import json
import re

import av
import numpy as np
from media import flat, put_samples, save
from outline import Outline

from evals.report_sources import find
from evals.report_videos import rows, shown, snapshots, spread
from tools.writers import write_mp4


def of(*folders, count=4):
    found = find(folders).samples
    return rows(found, {one.name: i for i, one in enumerate(found)}, count)


def decoded(source):
    """Frames and format of a video in a page: t h w 3."""
    assert source.startswith("data:video/mp4;base64,")
    with av.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), stream.codec_context.name, stream.pix_fmt


def test_samples_stand_beside_their_truth(tmp_path):
    first, second = of(put_samples(tmp_path / "a"))
    assert [tile.name for tile in first.tiles] == ["truth", "a (1)", "a (2)"]
    assert np.array_equal(first.tiles[0].frames, flat(0)) and np.array_equal(second.tiles[0].frames, flat(1))
    assert first.tiles[1].known == {0, 1} and not first.tiles[0].known
    assert first.tiles[1].note == f"{10 * np.log10(255 ** 2 / 25):.2f} dB"  # of the made frames, which are 5 too high


def test_folders_made_of_the_same_videos_share_rows(tmp_path):
    put_samples(tmp_path / "a")
    put_samples(tmp_path / "b")
    both = of(tmp_path / "a", tmp_path / "b")
    assert [[tile.name for tile in row.tiles] for row in both] == [["truth", "a (1)", "a (2)", "b (1)", "b (2)"]] * 2
    assert [tile.series for tile in both[0].tiles] == [None, 0, 0, 1, 1]
    save(tmp_path / "b/real/00001.npy", flat(9))
    assert [len(row.tiles) for row in of(tmp_path / "a", tmp_path / "b")] == [5, 3, 3]


def test_a_row_is_called_by_the_video_and_where_it_began(tmp_path):
    put_samples(tmp_path / "a")
    settings = {"videos": [{"video": 1, "name": "walk <1>", "start": 8}], "known_frames": []}
    (tmp_path / "a/sample.json").write_text(json.dumps(settings))
    titles = [row.title for row in of(tmp_path / "a")]
    assert titles == ["00000", "walk <1>, from frame 8"]
    assert "<h3>walk &lt;1&gt;, from frame 8</h3>" in shown(of(tmp_path / "a"))


def test_what_reconstruct_wrote_is_cut_into_its_halves(tmp_path):
    save(tmp_path / "out/recon/a.npy", flat(1))
    write_mp4(tmp_path / "out/videos/a.mp4", np.concatenate([flat(0), flat(1)], axis=2))
    (row,) = of(tmp_path / "out")
    for tile, frames in zip(row.tiles, (flat(0), flat(1)), strict=True):
        assert tile.frames.shape == frames.shape and np.abs(tile.frames.astype(int) - frames).mean() < 3


def test_videos_without_a_truth_stand_alone(tmp_path):
    save(tmp_path / "made/x.npy", flat(0))
    (row,) = of(tmp_path / "made")
    assert row.title == "x" and [tile.name for tile in row.tiles] == ["made"] and row.tiles[0].note == ""


def test_so_many_are_shown_and_spread_over_all(tmp_path):
    assert spread(list("abcdef"), 3) == ["a", "c", "e"] and spread(list("ab"), 3) == ["a", "b"]
    assert len(of(put_samples(tmp_path / "a"), count=1)) == 1


def test_folders_of_which_one_has_more_videos_show_common_ones(tmp_path):
    for name, count in (("a", 2), ("b", 8)):
        for i in range(count):
            save(tmp_path / name / f"real/{i:05d}.npy", flat(i))
            save(tmp_path / name / f"samples/{i:05d}_00.npy", flat(i))
    assert [row.title for row in of(tmp_path / "a", tmp_path / "b", count=2)] == ["00000", "00001"]


def test_videos_are_embedded_as_browsers_play_them(tmp_path):
    page = Outline(shown(of(put_samples(tmp_path / "a"))))
    films = page.all("video")
    assert len(films) == 6 and all({"autoplay", "loop", "muted", "playsinline"} <= film.keys() for film in films)
    frames, codec, pixels = decoded(films[0]["src"])
    assert (codec, pixels) == ("h264", "yuv420p")  # what every browser has
    assert frames.shape == flat(0).shape and np.abs(frames.astype(int) - flat(0)).mean() < 3
    assert int(films[0]["width"]) % flat(0).shape[2] == 0  # squares stay squares


def test_given_frames_are_marked_in_their_place(tmp_path):
    bars = [re.findall(r'rect x="(\d+)"', text) for text in shown(of(put_samples(tmp_path / "a"))).split("<figure")[1:]]
    assert bars == [[], ["0", "1"], ["0", "1"]] * 2


def test_long_videos_are_cut_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("evals.report_videos.FRAMES", 3)
    save(tmp_path / "made/x.npy", flat(0))
    text = shown(of(tmp_path / "made"))
    assert len(decoded(Outline(text).all("video")[0]["src"])[0]) == 3 and "first 3 of 4 frames" in text


def test_snapshots_are_told_by_run_and_step(tmp_path):
    (tmp_path / "run/samples").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("a: 1\n")
    (tmp_path / "run/samples/step-00012000.png").touch()
    ((caption, file),) = snapshots(find([tmp_path / "run"]).trainings)
    assert caption == "run, after 12,000 updates" and file.name == "step-00012000.png"


def test_nothing_to_compare_has_no_psnr(tmp_path):
    put_samples(tmp_path / "a")
    (tmp_path / "a/sample.json").write_text(json.dumps({"known_frames": [0, 1, 2, 3]}))
    assert {tile.note for row in of(tmp_path / "a") for tile in row.tiles} == {""}
