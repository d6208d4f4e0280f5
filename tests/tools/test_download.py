"""The command download, against a site on this machine."""

import hashlib

import pytest
from web import served

from tools import fetch_data, weights
from tools.download import download, human, overview
from tools.fetch_data import Dataset, Part
from tools.weights import Weights

CONTENT = bytes(range(256)) * 200
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch, tmp_path):
    """A site that publishes the weights "known", with a checksum, and "new", without, and the dataset "digits"."""
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("VIDEO_DATA", str(tmp_path / "data"))
    with served(monkeypatch) as site:
        entry = Weights("a net", "known.pt", site.put("/known.pt", CONTENT), "its page", "MIT", DIGEST, len(CONTENT))
        new = Weights("another net", "new.pt", site.put("/new.pt", CONTENT), "its page", "MIT")
        digits = Dataset("digits", "SMMNIST", "MNIST", "its page", "MIT", (Part(site.put("/digits.gz", CONTENT), "digits.gz"),))
        monkeypatch.setattr(weights, "WEIGHTS", {"known": entry, "new": new})
        monkeypatch.setattr(fetch_data, "DATASETS", {"digits": digits})
        yield site


def printed(capsys, name, out=None):
    """What the command prints, which is one path and nothing else."""
    download(name=name, out=str(out) if out else None)
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    return text.strip()


@pytest.mark.parametrize("name", ["known", "new"])
def test_weights_are_put_where_they_are_looked_for(site, tmp_path, capsys, name):
    assert printed(capsys, name) == str(tmp_path / "weights" / f"{name}.pt") == str(weights.weights_path(name))
    assert (tmp_path / "weights" / f"{name}.pt").read_bytes() == CONTENT
    assert weights.read_record(tmp_path / "weights" / f"{name}.pt")["sha256"] == DIGEST


def test_what_is_here_is_not_fetched_again(site, capsys):
    first = printed(capsys, "known")
    assert printed(capsys, "known") == first and len(site.requests) == 1


def test_another_folder_may_be_named(site, tmp_path, capsys):
    printed(capsys, "known")
    assert printed(capsys, "known", tmp_path / "out") == str(tmp_path / "out" / "known.pt")
    assert (tmp_path / "out" / "known.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[:-1], b"<html>Quota exceeded</html>"], ids=["other", "cut", "page"])
def test_a_wrong_file_is_refused_and_not_placed(site, tmp_path, content):
    site.put("/known.pt", content)
    with pytest.raises(ValueError, match=r"put it at .*known\.pt"):
        download(name="known", out=None)
    assert not (tmp_path / "weights" / "known.pt").exists() and not (tmp_path / "weights" / "known.pt.part").exists()


def test_a_damaged_file_is_told_and_fetched_anew(site, tmp_path, capsys):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "known.pt").write_bytes(CONTENT[::-1])
    download(name="known", out=None)
    assert "damaged" in capsys.readouterr().err
    assert (tmp_path / "weights" / "known.pt").read_bytes() == CONTENT


def test_a_damaged_file_in_torchs_cache_is_left_to_torch(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "TORCHVISION", site.url)  # all it publishes is now torchvision's
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cache = tmp_path / "torch" / "hub" / "checkpoints" / "known.pt"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"damaged")
    assert printed(capsys, "known") == str(tmp_path / "weights" / "known.pt") == str(weights.weights_path("known"))
    assert cache.read_bytes() == b"damaged"
    cache.write_bytes(CONTENT)
    (tmp_path / "weights" / "known.pt").unlink()
    assert printed(capsys, "known") == str(cache) and len(site.requests) == 1


def test_a_dataset_goes_below_the_data_folder(site, tmp_path, capsys):
    assert printed(capsys, "digits") == str(tmp_path / "data" / "MNIST")
    assert (tmp_path / "data" / "MNIST" / "digits.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("name", [None, "list"])
def test_all_names_are_listed_with_what_is_here(site, capsys, name):
    printed(capsys, "known")
    printed(capsys, "digits")
    download(name=name, out=None)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert set(rows) == {"known", "new", "digits"}
    assert " yes " in rows["known"] and " no " in rows["new"] and " yes " in rows["digits"]
    assert all("MIT" in row and "its page" in row for row in rows.values())


def test_the_list_asks_nobody(site):
    overview()
    assert not site.requests


def test_an_unknown_name_is_told_with_the_nearest(site):
    with pytest.raises(ValueError, match=r'"knwn" \(did you mean "known"\?\); known: known, new, digits'):
        download(name="knwn", out=None)


def test_another_publication_than_the_one_recorded_is_refused(site, tmp_path, capsys):
    file = tmp_path / "weights" / "new.pt"
    printed(capsys, "new")
    file.unlink()
    site.put("/new.pt", CONTENT[::-1])
    with pytest.raises(ValueError, match=r"first used here.*remove new\.pt\.sha256\.json"):
        download(name="new", out=None)
    assert not file.exists()
    weights.record_path(file).unlink()
    assert printed(capsys, "new") == str(file)


@pytest.mark.parametrize("size, text", [(None, "?"), (4_000_000, "4 MB"), (51_235_320, "51 MB"), (657_000_000_000, "657.0 GB")])
def test_sizes_for_people(size, text):
    assert human(size) == text
