"""The windows of a test as a file: the same windows again, or a line that says what is missing."""

import json

import pytest
from numbered import Counted

from tools.manifest import Manifest, dataset_hash
from tools.windows import windows


class Named(Counted):
    """Counted with names of one's own."""

    def __init__(self, **lengths):
        super().__init__(lengths.values())
        self.names = list(lengths)

    def name(self, i):
        return self.names[i]


def kept(tmp_path, source, frames=4, **options):
    """Windows of a source, and the manifest of them after it was written and read."""
    chosen = windows(source, frames, count=5, seed=1, **options)
    Manifest.of(source, chosen, frames, **options).write(tmp_path / "windows.json")
    return chosen, Manifest.read(tmp_path / "windows.json")


def test_the_same_windows_come_back(tmp_path):
    source = Named(a=20, b=9, c=30)
    chosen, manifest = kept(tmp_path, source, stride=2)
    assert manifest.find(source) == chosen and (manifest.frames, manifest.stride) == (4, 2) and source.notes == []


def test_windows_are_found_by_name_in_another_order_and_among_others(tmp_path):
    source, more = Named(a=20, b=9, c=30), Named(z=3, c=30, b=9, q=50, a=20)
    chosen, manifest = kept(tmp_path, source)
    assert [(more.name(v), s) for v, s in manifest.find(more)] == [(source.name(v), s) for v, s in chosen]
    assert "another selection of 3 videos (this one has 5)" in more.notes[0]


@pytest.mark.parametrize("lengths, words", [({"a": 20, "c": 30}, "the video b, which this one of 2 videos lacks"),
                                            ({"a": 20, "b": 8, "c": 30}, "video b has 8 frames.* had 9: it is another")])
def test_another_dataset_is_refused(tmp_path, lengths, words):
    _, manifest = kept(tmp_path, Named(a=20, b=9, c=30))
    with pytest.raises(ValueError, match=words):
        manifest.find(Named(**lengths))


def test_more_frames_than_the_video_has_are_refused(tmp_path):
    source = Named(a=9)
    Manifest.of(source, [(0, 2)], 4).write(tmp_path / "w.json")
    manifest = Manifest.read(tmp_path / "w.json")
    assert manifest.find(source, 7) == [(0, 2)]
    with pytest.raises(ValueError, match="has 9 frames, but a window from frame 2 on needs 10"):
        manifest.find(source, 8)


def test_the_hash_is_of_the_names_in_their_order():
    assert dataset_hash(Named(a=1, b=2)) == dataset_hash(Named(a=1, b=2))
    assert len({dataset_hash(Named(**dict.fromkeys(names, 1))) for names in ("ab", "ba", "abc", ["a", "bc"])}) == 4


@pytest.mark.parametrize("text, word", [("{", "JSONDecodeError"), ("[]", "TypeError"), ("{}", "version"),
                                        ('{"version": 9}', "version 9"), (None, "FileNotFoundError")])
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path, text, word):
    if text is not None:
        (tmp_path / "w.json").write_text(text)
    with pytest.raises(ValueError, match=word) as error:
        Manifest.read(tmp_path / "w.json")
    assert "windows.json" in str(error.value) or "--exp sample" in str(error.value)


def test_it_is_json_that_people_can_read(tmp_path):
    source = Named(a=20, b=9)
    kept(tmp_path, source)
    held = json.loads((tmp_path / "windows.json").read_text())
    assert set(held["windows"][0]) == {"video", "frames_in_video", "start"}
    assert (held["frames"], held["stride"], held["dataset_hash"]) == (4, 1, dataset_hash(source))
