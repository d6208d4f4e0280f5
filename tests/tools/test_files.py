import pytest

from tools.files import replacing, write_text


def test_the_old_text_stays_until_the_new_is_whole(tmp_path):
    write_text(tmp_path / "a/x.txt", "old")
    with replacing(tmp_path / "a/x.txt") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a/x.txt").read_text() == "old"
    assert (tmp_path / "a/x.txt").read_text() == "new"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.txt"]


def test_an_error_keeps_the_old_and_leaves_no_rest(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(KeyError), replacing(tmp_path / "x.txt") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.txt", "old")]


def test_what_a_kill_left_is_taken_away(tmp_path):
    (tmp_path / "x.txt.tmp").write_text("half of something much longer")
    write_text(tmp_path / "x.txt", "né")
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [("x.txt", "né")]
