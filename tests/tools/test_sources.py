"""The contract of every source: in bounds and deterministic, and an error that says what layout is wanted."""

import pickle

import numpy as np
import pytest
from media import encode, flat, names, put, put_frames
from shards import put_mnist, put_shard

from tools.pack import PackConfig, make_plan, write
from tools.packed import PackedSource
from tools.raw import open_raw
from tools.sources import SOURCES

# where the contract tests find a registered source in a folder of small files, and in that of real videos
PLACES = {"UCF101": "ucf101/UCF-101", "SKY": "SkyTimelapse", "VIDEOS": "videos", "SHAPES": "", "SMMNIST": "mnist", "KTH": "KTH",
          "BAIR": "bair", "CITYSCAPES": "cityscapes", "CLEVRER": "CLEVRER", "CARLA": "carla", "KINETICS": "kinetics600"}
REAL = {"UCF101", "SKY", "VIDEOS", "SHAPES", "SMMNIST", "BAIR"}


def small_data(folder):
    """A little of every layout in PLACES."""
    for number in (1, 2):
        encode(folder / f"ucf101/UCF-101/Biking/v_Biking_g0{number}_c01.avi", flat(number, t=9), "mpeg4")
        encode(folder / f"KTH/boxing/person0{number}_boxing_d1_uncomp.avi", flat(number, t=9), "mpeg4")
        put_frames(folder / f"SkyTimelapse/train/{number}", flat(number, t=3))
        put(folder / f"videos/{number}.npy", number, length=1)
        put(folder / f"CLEVRER/video_{number:05d}.npy", number)
        put(folder / f"kinetics600/train/archery/{number}.npy", number)
        put_frames(folder / f"carla/video_{number}", flat(number, t=3))
        put_frames(folder / f"bair/train/{number}", flat(number, t=3))
    for side in ("train", "t10k"):
        put_mnist(folder / f"mnist/{side}-images-idx3-ubyte.gz", np.tile(np.uint8(200), (10, 28, 28)))
    put_shard(folder / "cityscapes/train/shard_0001.hdf5", [flat(1), flat(2)])
    return folder


@pytest.mark.parametrize("name, real", [(name, False) for name in SOURCES] + [(name, True) for name in sorted(REAL)])
def test_every_source_keeps_the_contract(request, tmp_path, name, real):
    data = request.getfixturevalue("video_data") if real else small_data(tmp_path)
    source, again = (SOURCES.bind({"name": name})(str(data / PLACES[name])) for _ in range(2))
    assert len(source) > 0 and isinstance(source.notes, list)
    some = sorted({0, len(source) - 1})
    if len(source) < 1000:
        assert len(set(names(source))) == len(source) and names(source) == names(again)
    for i in some:
        n = source.num_frames(i)
        frames = source.read(i, n - min(n, 5), n, 2)
        assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
        assert len(frames) == len(range(n - min(n, 5), n, 2))
        assert np.array_equal(frames, again.read(i, n - min(n, 5), n, 2))
        copied = pickle.loads(pickle.dumps(source))  # to a worker process
        assert np.array_equal(frames, copied.read(i, n - min(n, 5), n, 2)) and copied.name(i) == source.name(i)
        label = source.label(i) if hasattr(source, "label") else None
        assert label is None or 0 <= label < len(source.classes)
        for start, stop in ((-1, 2), (0, n + 1), (n, n + 1)):
            with pytest.raises(ValueError, match=f"{n} frames"):
                source.read(i, start, stop)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "SHAPES"])
def test_every_source_is_found_in_the_parent_of_its_folder(tmp_path, name):
    if name == "VIDEOS":
        return  # any folder is one
    data = small_data(tmp_path)
    assert names(few(SOURCES.bind(name)(data))) == names(few(SOURCES.bind(name)(data / PLACES[name])))


def few(source):
    """A source of the first videos."""
    return type("Few", (), {"__len__": lambda self: min(len(source), 5), "name": staticmethod(source.name)})()


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("SHAPES", "SMMNIST")])
def test_every_side_that_is_empty_names_the_way_out(tmp_path, name):
    data = small_data(tmp_path)
    empty = []
    for split in ("train", "test"):
        try:
            SOURCES.bind({"name": name, "split": split})(data / PLACES[name])
        except ValueError as error:
            assert "data.split=all" in str(error) and "\n" not in str(error)
            empty.append(split)
    assert empty in ([], ["test"], ["train"]) and (empty or name == "UCF101")


# --- prepared folders ----------------------------------------------------------------------------------------

def prepare(name, src, out):
    raw, cfg = open_raw(name, src), PackConfig(name, (16, 24), min_frames=1)
    write(raw, make_plan(raw, cfg, 0), out, cfg, 0)
    return out


@pytest.mark.parametrize("given", ["", "KTH"])
def test_a_prepared_folder_is_read_under_the_name_of_its_dataset(tmp_path, given):
    for person in (1, 25):
        put_frames(tmp_path / f"raw/person{person:02d}_boxing_d1", flat(person))
    prepare("KTH", tmp_path / "raw", tmp_path / "fast/KTH")
    source = SOURCES.bind({"name": "KTH", "split": "test"})(tmp_path / "fast" / given)
    assert isinstance(source, PackedSource) and names(source) == ["person25_boxing_d1"]
    assert np.abs(source.read(0, 1, 4, 2).astype(int) - flat(25)[1:4:2]).max() <= 1
    assert source.classes[source.label(0)] == "boxing"
    assert len(SOURCES.bind("VIDEOS")(tmp_path / "fast/KTH")) == 2
    with pytest.raises(ValueError, match=r"was prepared from KTH, not BAIR; use --data KTH"):
        SOURCES.bind("BAIR")(tmp_path / "fast/KTH")
    with pytest.raises(ValueError, match=r"is a prepared set, in which data.options.segments is settled"):
        SOURCES.bind({"name": "KTH", "segments": True})(tmp_path / "fast/KTH")


def test_the_folds_of_a_prepared_ucf_are_kept(tmp_path):
    root = tmp_path / "UCF-101"
    for group in (1, 2):
        put_frames(root / f"Biking/v_Biking_g0{group}_c01", flat(group))
    for fold in (1, 2, 3):
        for split, group in (("train", 1 + fold % 2), ("test", 2 - fold % 2)):
            save_text(root / f"ucfTrainTestlist/{split}list{fold:02d}.txt", f"Biking/v_Biking_g0{group}_c01.avi 1\n")
    prepare("UCF101", root, tmp_path / "fast")
    for fold in (1, 2, 3):
        for split in ("train", "test"):
            of_side = SOURCES.bind({"name": "UCF101", "split": split, "fold": fold})
            raw, fast = of_side(root), of_side(tmp_path / "fast")
            assert names(raw) == names(fast) and len(fast) == 1


def save_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- errors --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", list(SOURCES))
def test_every_source_refuses_unknown_splits_and_options(tmp_path, name):
    with pytest.raises(ValueError, match=r"data.split must be one of train, test, all, got \"val\""):
        SOURCES.bind({"name": name, "split": "val"})(str(tmp_path))
    with pytest.raises(ValueError, match="split"):
        SOURCES.bind({"name": name, "splt": "train"})


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "SHAPES"])
def test_missing_and_empty_folders_tell_the_layout(tmp_path, name):
    for path, found in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "an empty folder")):
        with pytest.raises(ValueError, match=found) as error:
            SOURCES.bind(name)(str(path))
        assert str(path) in str(error.value) and "--data_path" in str(error.value) and "wanted" in str(error.value)
