"""What a report says of the program and of the windows is what is there."""

import json
import shutil
import subprocess

import pytest

from evals.protocols import load_rules
from evals.provenance import otherwise_sampled, revision, windows_of


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, and its hash."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "code.py").write_text("1\n")

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True).stdout
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first", "--no-verify")
    return tmp_path, git("rev-parse", "HEAD").strip()


def test_a_checkout_is_told_by_its_commit_and_whether_files_differ_from_it(checkout):
    folder, commit = checkout
    (folder / "results.json").write_text("{}")  # what is not tracked is not the program
    assert revision(folder) == commit
    (folder / "part" / "code.py").write_text("2\n")
    assert revision(folder) == f"{commit}-changed"


def test_a_program_inside_another_checkout_has_no_revision(checkout):
    folder, _ = checkout
    assert revision(folder / "part") is None


def test_outside_of_a_checkout_and_without_git_there_is_none(tmp_path, monkeypatch):
    assert revision(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(tmp_path) is None


def test_windows_are_found_in_the_folder_and_beside_it(tmp_path):
    (tmp_path / "samples").mkdir()
    assert windows_of(tmp_path / "samples") is None
    (tmp_path / "windows.json").write_text(json.dumps({"windows": [1]}))
    (tmp_path / "samples.npz").touch()
    assert windows_of(tmp_path / "samples") == windows_of(tmp_path) == windows_of(tmp_path / "samples.npz") == {"windows": [1]}
    (tmp_path / "windows.json").write_text("{")
    with pytest.raises(ValueError, match=r"windows\.json: damaged JSON"):
        windows_of(tmp_path)


def test_samples_that_were_made_in_another_way_than_the_protocol_has_it_are_told():
    rules = load_rules("pvdm")
    wanted = rules.sampling
    made = {"sampler": {"name": wanted["sampler"], "eta": wanted["eta"]}, "steps": wanted["steps"]}
    assert otherwise_sampled(rules, made) == []
    words, = otherwise_sampled(rules, made | {"steps": "7"})
    assert "steps 7" in words and str(wanted["steps"]) in words
