"""KTH cut into the sequences of its list."""

import numpy as np
import pytest
from media import encode, flat

from tools.raw import open_raw
from tools.raw_kth import read_list
from tools.video import read_video

LIST = """KTH actions\n\nperson01_boxing_d1\t\tframes\t1-6, 7-10\n
person01_boxing_d2\tframes\t1-4,\nperson13_handclapping_d3    *missing*\nperson21_walking_d4\tframes\t\t2-99\n"""


@pytest.fixture
def recordings(tmp_path):
    for number, name in enumerate(("boxing/person01_boxing_d1", "walking/person21_walking_d4", "jogging/person02_jogging_d1")):
        encode(tmp_path / f"{name}_uncomp.avi", flat(number, t=10), "mpeg4")
    (tmp_path / "00sequences.txt").write_text(LIST)
    return tmp_path


def test_the_list_is_read(tmp_path):
    (tmp_path / "list").write_text(LIST)
    assert read_list(tmp_path / "list") == {"person01_boxing_d1": [(1, 6), (7, 10)], "person01_boxing_d2": [(1, 4)],
                                            "person21_walking_d4": [(2, 99)]}


def test_sequences_sides_and_classes(recordings):
    raw = open_raw("KTH", recordings)
    videos = [raw.video(i) for i in range(len(raw))]
    assert [(v.name, v.sides, raw.classes[v.label]) for v in videos] == [
        ("person01_boxing_d1_1", ("train",), "boxing"), ("person01_boxing_d1_2", ("train",), "boxing"),
        ("person21_walking_d4_1", ("test",), "walking")]
    assert videos[1].origin == "boxing/person01_boxing_d1_uncomp.avi#7-10"
    assert [raw.num_frames(i) for i in range(3)] == [6, 4, 9]  # the last is listed beyond its end


def test_frames_are_those_of_the_list(recordings):
    whole = read_video(recordings / "boxing/person01_boxing_d1_uncomp.avi")
    np.testing.assert_array_equal(open_raw("KTH", recordings).read(1, 1, 4), whole[7:10])


def test_what_is_absent_or_not_listed_is_told(recordings):
    notes = " ".join(open_raw("KTH", recordings).notes)
    assert "1 of 3 of the listed recordings are absent: person01_boxing_d2" in notes
    assert "not in the list and left out: person02_jogging_d1" in notes


def test_whole_recordings(recordings):
    (recordings / "00sequences.txt").unlink()
    with pytest.raises(ValueError, match=r"has no 00sequences.txt.*segments=false"):
        open_raw("KTH", recordings)
    raw = open_raw("KTH", recordings, {"segments": False})
    assert [raw.video(i).name for i in range(3)] == ["person01_boxing_d1", "person02_jogging_d1", "person21_walking_d4"]
    assert raw.num_frames(0) == 10


@pytest.mark.parametrize("text, why", [("nothing", "lists no sequence"), ("person01_boxing_d1 frames 9-3", "frames 9-3")])
def test_a_broken_list_is_refused(tmp_path, text, why):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=why):
        read_list(tmp_path / "list")


def test_a_recording_that_is_shorter_than_its_sequence_begins(recordings):
    (recordings / "00sequences.txt").write_text("person01_boxing_d1 frames 1-10, 11-20")
    with pytest.raises(ValueError, match=r"has 10 frames, but 00sequences\.txt lists 11-20"):
        open_raw("KTH", recordings).num_frames(1)
