"""Any folder of videos is read whole, and each made video meets the true one of its name and no other."""

from concurrent.futures import ThreadPoolExecutor

import imageio.v3 as imageio
import numpy as np
import pytest
from media import encode, flat, moving, put_samples, save

from evals.pairs import Entry, open_set, pair_videos
from tools.writers import write_gif, write_mp4


def entries(path, side="real"):
    return open_set(path, side).entries


def names(path, side="real"):
    return [entry.name for entry in entries(path, side)]


def pairs(real, fake):
    """(name, name) of all pairs of two folders."""
    return [(r.name, f.name) for r, f in pair_videos(entries(real), entries(fake, "fake")).pairs]


def named(*wanted):
    """Entries that need no file."""
    return [Entry(name, f"{name}.npy") for name in wanted]


def paired(real, fake):
    return [(r.name, f.name) for r, f in pair_videos(named(*real), named(*fake)).pairs]


# formats

def write_frames(path, frames):
    path.mkdir(parents=True)
    for i, image in enumerate(frames):
        imageio.imwrite(path / f"frame{i}.png", image)


def write_npz(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, frames)


def write_avi(path, frames):
    encode(path, frames, "mjpeg", "yuvj444p")


FORMATS = {".npy": (save, 0), ".npz": (write_npz, 0), "": (write_frames, 0), ".gif": (write_gif, 0),
           ".mp4": (write_mp4, 4), ".avi": (write_avi, 4)}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("suffix", FORMATS)
def test_reads_every_format_nested_or_not(tmp_path, suffix, nested):
    write, error = FORMATS[suffix]
    for i in range(3):
        save(tmp_path / "real" / f"{i:05d}.npy", flat(i, t=12))
        write(tmp_path / "fake" / (f"class{i % 2}/deep" if nested else "") / f"{i:05d}{suffix}", flat(i, t=12))
    pairing = pair_videos(entries(tmp_path / "real"), entries(tmp_path / "fake", "fake"))
    assert len(pairing.pairs) == 3 and pairing.unpaired == {"real": [], "fake": []}
    for i, (real, fake) in enumerate(pairing.pairs):
        assert np.array_equal(real.read(), flat(i, t=12))
        assert np.abs(fake.read().astype(int) - flat(i, t=12)).max() <= error


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("as_file", [True, False])
def test_reads_one_array_of_many_videos(tmp_path, suffix, as_file):
    videos = np.stack([flat(i) for i in range(3)])
    for i in range(3):
        save(tmp_path / "real" / f"{i:05d}.npy", flat(i))
    path = tmp_path / "fake" / f"samples.{suffix}"
    path.parent.mkdir()
    np.save(path, videos) if suffix == "npy" else np.savez(path, videos)
    fake = entries(path if as_file else path.parent, "fake")
    found = pair_videos(entries(tmp_path / "real"), fake).pairs
    assert [(real.name, str(made)) for real, made in found] == [(f"{i:05d}", f"{path}[{i}]") for i in range(3)]
    for i in (2, 0, 1):  # in any order
        assert np.array_equal(fake[i].read(), videos[i])


@pytest.mark.parametrize("key, more", [("frames", {}), ("arr_0", {"labels": np.zeros(3)})])
def test_the_videos_of_an_npz_are_found_under_any_single_name(tmp_path, key, more):
    np.savez(tmp_path / "all.npz", **{key: np.stack([flat(i) for i in range(3)])}, **more)
    assert [np.array_equal(entry.read(), flat(i)) for i, entry in enumerate(entries(tmp_path))] == [True] * 3


def test_many_threads_may_read_one_array(tmp_path):
    videos = np.random.default_rng(0).integers(0, 256, (20, 4, 16, 24, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "all.npz", videos)
    found = entries(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(Entry.read, found * 10))
    assert all(np.array_equal(frames, videos[i % 20]) for i, frames in enumerate(read))


def test_an_array_that_was_written_again_is_read_again(tmp_path):
    for seeds in ((0, 1), (2, 3, 4)):
        np.save(tmp_path / "all.npy", np.stack([flat(seed) for seed in seeds]))
        found = entries(tmp_path)
        assert len(found) == len(seeds) and np.array_equal(found[1].read(), flat(seeds[1]))


def test_two_single_files_are_one_pair(tmp_path):
    save(tmp_path / "a.npy", flat(0))
    save(tmp_path / "b.npy", flat(1))
    (real, fake), = pair_videos(entries(tmp_path / "a.npy"), entries(tmp_path / "b.npy", "fake")).pairs
    assert real.name == fake.name == "video"
    assert np.array_equal(real.read(), flat(0)) and np.array_equal(fake.read(), flat(1))


def test_a_frame_folder_given_itself_is_one_video(tmp_path):
    write_frames(tmp_path / "walk", flat(t=12))
    entry, = entries(tmp_path / "walk")
    assert entry.name == "video" and np.array_equal(entry.read(), flat(t=12))


def test_grey_compares_as_three_equal_channels(tmp_path):
    grey = flat()[..., :1]
    save(tmp_path / "one.npy", grey)
    np.save(tmp_path / "many.npy", grey[None])
    for name in ("one", "many"):
        entry, = entries(tmp_path / f"{name}.npy")
        assert np.array_equal(entry.read(), np.repeat(grey, 3, axis=-1))


# pairing

def test_names_are_in_natural_order_with_their_folders(tmp_path):
    for name in ("b/v10", "b/v9", "a.1", "c/d/v1"):
        save(tmp_path / f"{name}.npy", flat())
    write_frames(tmp_path / "take.2", flat())
    assert names(tmp_path) == ["a.1", "b/v9", "b/v10", "c/d/v1", "take.2"]


def test_videos_pair_by_name_not_by_order(tmp_path):
    for name in ("00000", "00001", "00002"):
        save(tmp_path / "real" / f"{name}.npy", flat())
    for name in ("00002", "00001"):
        save(tmp_path / "fake" / f"{name}.npy", flat())
    assert pairs(tmp_path / "real", tmp_path / "fake") == [("00001", "00001"), ("00002", "00002")]


def test_samples_of_one_video_come_together():
    fake = ["00001_00", "00000_00", "00000_01", "00001_10", "00001_100"]
    assert paired(["00000", "00001"], fake) == [
        ("00000", "00000_00"), ("00000", "00000_01"), ("00001", "00001_00"), ("00001", "00001_10"), ("00001", "00001_100")]


def test_a_name_that_ends_in_a_number_pairs_with_itself_first():
    assert paired(["v", "v_01"], ["v_01"]) == [("v_01", "v_01")]
    assert paired(["v", "v_01"], ["v_01_00", "v_02"]) == [("v", "v_02"), ("v_01", "v_01_00")]


@pytest.mark.parametrize("name", ["v_1", "v01", "v_01a", "v_01_x", "w_01"])
def test_another_ending_is_no_sample_number(name):
    assert pair_videos(named("v"), named(name)) == ([], {"real": ["v.npy"], "fake": [f"{name}.npy"]})


def test_equal_stems_in_different_folders_are_never_mixed():
    real = ["cats/v1", "dogs/v1"]
    assert paired(real, ["cats/v1_00", "dogs/v1_00"]) == [("cats/v1", "cats/v1_00"), ("dogs/v1", "dogs/v1_00")]
    assert paired(real, ["dogs_v1"]) == [("dogs/v1", "dogs_v1")]  # the name a source gives it
    assert paired(real, ["v1"]) == paired(real, ["birds/v1"]) == []


def test_folders_that_join_to_one_name_are_never_mixed():
    real = ["walk/left_1", "walk_left/1", "run/left_1", "run_left/1"]  # twice walk_left_1
    assert paired(real, ["walk_left/1", "walk/left_1"]) == [("walk/left_1", "walk/left_1"), ("walk_left/1", "walk_left/1")]
    assert paired(real, ["walk/left_1_00", "run/1"]) == [("walk/left_1", "walk/left_1_00")]
    assert paired(real, ["walk_left_1"]) == []


def test_the_last_part_pairs_where_it_is_the_only_one_on_both_sides():
    assert paired(["a/v1", "a/v2"], ["samples/v2", "samples/v1_00"]) == [("a/v1", "samples/v1_00"), ("a/v2", "samples/v2")]
    assert paired(["v1"], ["x/v1", "y/v1"]) == []


def test_what_pairs_with_nothing_is_listed_by_path():
    pairing = pair_videos(named("a", "b", "c"), named("b_00", "d"))
    assert pairing.unpaired == {"real": ["a.npy", "c.npy"], "fake": ["d.npy"]}


# sample folders

@pytest.fixture
def sample_folder(tmp_path):
    return put_samples(tmp_path / "out")


@pytest.mark.parametrize("given", ["", "samples", "samples.npz"])
def test_a_sample_folder_holds_two_sets_and_its_settings(sample_folder, given):
    fake = open_set(sample_folder / given, "fake")
    assert [e.name for e in fake.entries] == ["00000_00", "00000_01", "00001_00", "00001_01"]
    assert fake.settings["known_frames"] == [0, 1] and fake.settings["seed"] == 7
    real = open_set(sample_folder, "real")
    assert [e.name for e in real.entries] == ["00000", "00001"] and real.folder == sample_folder / "real"
    for r, f in pair_videos(real.entries, fake.entries).pairs:
        difference = f.read().astype(int) - r.read()
        assert (difference[:2] == 0).all() and (difference[2:] == 5).all()


def test_settings_that_were_copied_among_the_samples_count_too(sample_folder):
    (sample_folder / "sample.json").rename(sample_folder / "samples/sample.json")
    assert open_set(sample_folder / "samples", "fake").settings["seed"] == 7
    assert open_set(sample_folder, "fake").folder == sample_folder / "samples"


def test_a_folder_of_videos_has_no_settings(tmp_path):
    save(tmp_path / "set/v.npy", flat())
    assert open_set(tmp_path / "set", "fake").settings == {}


def test_only_the_folders_of_a_sample_folder_are_special(tmp_path):
    save(tmp_path / "samples/v.npy", flat())  # a class of that name, with no real/ and no sample.json beside it
    save(tmp_path / "other/v.npy", flat())
    assert names(tmp_path, "fake") == ["other/v", "samples/v"]


def test_generated_videos_have_no_truth_to_compare_with(sample_folder):
    for file in (sample_folder / "real").iterdir():
        file.unlink()
    (sample_folder / "real").rmdir()
    assert len(entries(sample_folder, "fake")) == 4
    with pytest.raises(ValueError, match=r"--real .*without real/.*give the folder of the true videos"):
        open_set(sample_folder, "real")


@pytest.mark.parametrize("settings, words", [("{", "damaged JSON"), ("[]", "holds a list")])
def test_a_wrong_sample_json_is_an_error(sample_folder, settings, words):
    (sample_folder / "sample.json").write_text(settings)
    with pytest.raises(ValueError, match=f"sample.json: {words}"):
        open_set(sample_folder, "fake")


# errors

def one_line(read):
    """The error of a call."""
    with pytest.raises(ValueError) as error:
        read()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_empty_and_ambiguous_folders_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/readme.md").write_text("")
    write_gif(tmp_path / "double" / "00000.gif", flat())
    save(tmp_path / "double" / "00000.npy", flat())
    for folder, words in (("absent", "no such file or folder"), ("empty", "holds no video (an empty folder)"),
                          ("text", "holds no video (found readme.md)"), ("double", "have one name")):
        text = one_line(lambda folder=folder: open_set(tmp_path / folder, "fake"))
        assert text.startswith(f"--fake {tmp_path / folder}: ") and words in text


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_and_empty_files_are_named(tmp_path, suffix):
    write, _ = FORMATS[suffix]
    path = tmp_path / f"video{suffix}"
    write(path, np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), dtype=np.uint8))
    broken = path / "frame2.png" if path.is_dir() else path
    for content in (b"", broken.read_bytes()[:200]):
        broken.write_bytes(content)
        entry, = entries(tmp_path)
        text = one_line(entry.read)
        assert text.startswith(str(broken)) and "damaged" in text


def test_a_truncated_bundle_is_an_error(tmp_path):
    path = tmp_path / "samples.npy"
    np.save(path, np.stack([flat(i) for i in range(3)]))
    path.write_bytes(path.read_bytes()[:-9])
    found = entries(path)
    assert np.array_equal(found[1].read(), flat(1))
    with pytest.raises(ValueError, match=r"ends inside video 2 of 3"):
        found[2].read()


def test_a_bundle_with_broken_bytes_is_an_error(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez_compressed(path, moving(12).reshape(3, 4, 48, 64, 3))
    data = bytearray(path.read_bytes())
    data[-2000:-1900] = b"\xff" * 100
    path.write_bytes(data)
    found = entries(path)
    assert len(found) == 3
    assert one_line(found[2].read).startswith(f"{path}: damaged at video 2 of 3 ")
    path.write_bytes(data[:-30])  # without its end
    entry, = entries(path)
    assert one_line(entry.read).startswith(f"{path}: damaged or not an array")


@pytest.mark.parametrize("array, got", [
    (np.zeros((2, 4, 8, 8, 3), np.float32), "float32 (2, 4, 8, 8, 3)"),
    (np.zeros((2, 4, 3, 8, 8), np.uint8), "uint8 (2, 4, 3, 8, 8)"),
    (np.asfortranarray(np.zeros((2, 4, 8, 8, 3), np.uint8)), "uint8 (2, 4, 8, 8, 3)"),
])
def test_a_bundle_of_another_kind_is_refused(tmp_path, array, got):
    np.save(tmp_path / "all.npy", array)
    text = one_line(entries(tmp_path)[0].read)
    assert got in text and "wanted uint8 n t h w c in C order" in text


def test_what_is_made_may_go_by_another_name(tmp_path):
    put_samples(tmp_path / "out")
    made = open_set(tmp_path / "out", "input")
    assert made.folder == tmp_path / "out/samples" and made.settings["seed"] == 7
    with pytest.raises(ValueError, match=r"^--input .*absent: no such file"):
        open_set(tmp_path / "absent", "input")
