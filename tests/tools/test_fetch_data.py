"""Datasets: fetched in parts, unpacked, checked against the disk and the owner's account."""

import hashlib
import io
import os
import stat
import tarfile
import zipfile
from dataclasses import replace

import pytest
from web import served

from tools import fetch_data
from tools.fetch_data import DATASETS, GB, Dataset, Part, check_disk, kind_of, place
from tools.sources import SOURCES
from tools.weights import WEIGHTS


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def tree(folder):
    """The files below a folder, without the record of what was fetched."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != fetch_data.DONE}


def one_line(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def site(monkeypatch):
    with served(monkeypatch) as site:
        yield site


@pytest.fixture
def toy(site, monkeypatch):
    """A dataset of two archives and a list."""
    parts = (Part(site.put("/walk.zip", zipped({"walk/a.avi": b"a"})), "walk.zip", "train"),
             Part(site.put("/run.tar", tarred({"run/b.avi": b"b"}, "w:gz")), "run.tar.gz", "test"),
             Part(site.put("/list.txt", b"a b"), "list.txt"))
    dataset = Dataset("toy", "VIDEOS", "Toy", site.url, "MIT", parts)
    monkeypatch.setattr(fetch_data, "DATASETS", {"toy": dataset})
    return dataset


# --- the registry --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", DATASETS)
def test_an_entry_is_complete(name):
    dataset = DATASETS[name]
    assert dataset.page.startswith("http") and dataset.what and dataset.licence and dataset.parts
    assert len({part.file for part in dataset.parts}) == len(dataset.parts)
    assert dataset.needs >= sum(part.size or 0 for part in dataset.parts) or not dataset.needs


def test_no_two_share_a_folder_or_a_name_with_weights():
    assert len({dataset.folder for dataset in DATASETS.values()}) == len(DATASETS) and not set(DATASETS) & set(WEIGHTS)


@pytest.mark.parametrize("name", DATASETS)
def test_the_source_that_reads_a_dataset_looks_into_its_folder(name, tmp_path):
    folder = tmp_path / DATASETS[name].folder
    folder.mkdir()
    with pytest.raises(ValueError) as error:  # it is empty
        SOURCES.bind(DATASETS[name].data)(tmp_path)
    assert str(error.value).startswith(f"{folder}: ")


# --- fetching ------------------------------------------------------------------------------------------------

def test_all_parts_are_laid_out_and_no_archive_is_left(toy, tmp_path):
    root = fetch_data.fetch_data("toy", tmp_path)
    assert root == tmp_path / "Toy"
    assert tree(root) == {"train/walk/a.avi": b"a", "test/run/b.avi": b"b", "list.txt": b"a b"}
    assert fetch_data.is_whole("toy", tmp_path)


def test_a_second_call_fetches_nothing_and_a_broken_off_one_only_the_rest(toy, site, tmp_path):
    site.faults.append(lambda handler: handler.send_file())
    site.refuse(404)  # of the second part
    one_line(lambda: fetch_data.fetch_data("toy", tmp_path))
    assert not fetch_data.is_whole("toy", tmp_path)
    fetch_data.fetch_data("toy", tmp_path)
    fetch_data.fetch_data("toy", tmp_path)
    assert [path for _, path, _, _ in site.requests] == ["/walk.zip", "/run.tar", "/run.tar", "/list.txt"]


def test_an_archive_put_there_by_hand_is_used(toy, site, tmp_path):
    (tmp_path / "Toy").mkdir()
    (tmp_path / "Toy" / "walk.zip").write_bytes(zipped({"walk/mine.avi": b"m"}))
    assert "train/walk/mine.avi" in tree(fetch_data.fetch_data("toy", tmp_path))
    assert "/walk.zip" not in [path for _, path, _, _ in site.requests]


def test_another_file_than_the_published_is_refused(toy, site, tmp_path, monkeypatch):
    part = replace(toy.parts[2], sha256="0" * 64)
    monkeypatch.setattr(fetch_data, "DATASETS", {"toy": replace(toy, parts=(part,))})
    assert "SHA-256" in one_line(lambda: fetch_data.fetch_data("toy", tmp_path)) and not tree(tmp_path)


def test_the_disk_is_looked_at_before_anything_is_fetched(toy, site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_data, "DATASETS", {"toy": replace(toy, needs=10**18)})
    said = one_line(lambda: fetch_data.fetch_data("toy", tmp_path / "not" / "yet"))
    assert "1000000000 GB" in said and "--out" in said and not site.requests


@pytest.mark.parametrize("free, there, short", [(7, 3, None), (6, 3, "1.0 GB"), (6, 0, "4.0 GB")])
def test_what_is_there_already_counts(toy, tmp_path, monkeypatch, free, there, short):
    usage = fetch_data.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch_data.shutil, "disk_usage", lambda _: usage._replace(free=free * GB))
    with open(tmp_path / "walk.zip.part", "wb") as file:
        file.truncate(there * GB)  # a hole
    call = lambda: check_disk("toy", replace(toy, needs=10 * GB), tmp_path)  # noqa: E731
    if short is None:
        call()
    else:
        assert f"short of {short}" in one_line(call)


# --- unpacking -----------------------------------------------------------------------------------------------

HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(20)


@pytest.mark.parametrize("content, kind, wanted", [
    (zipped({"x/a": b"1"}), "zip", {"x/a": b"1"}), (tarred({"x/a": b"1"}), "tar", {"x/a": b"1"}),
    (tarred({"x/a": b"1"}, "w:gz"), "tar", {"x/a": b"1"}), (HDF5, "hdf5", {"set.hdf5": HDF5}),
], ids=["zip", "tar", "tar.gz", "hdf5"])
def test_a_file_is_told_by_its_content(tmp_path, content, kind, wanted):
    file = tmp_path / "set.archive"
    file.write_bytes(content)
    assert kind_of(file) == kind
    place(file, tmp_path / "out")
    assert tree(tmp_path) == {f"out/{name}": value for name, value in wanted.items()}


def test_what_is_no_archive_is_refused_and_kept(tmp_path):
    (tmp_path / "set.archive").write_bytes(b"something else")
    assert "neither a zip" in one_line(lambda: place(tmp_path / "set.archive", tmp_path))
    assert tree(tmp_path) == {"set.archive": b"something else"}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_an_archive_cannot_write_elsewhere(tmp_path, make):
    (tmp_path / "evil").write_bytes(make({"../../outside": b"x"}))
    try:
        place(tmp_path / "evil", tmp_path / "a" / "b" / "c")
    except ValueError as error:
        assert "does not unpack" in str(error)
    assert not (tmp_path / "a" / "outside").exists()


@pytest.mark.parametrize("make, keep", [(zipped, 1.0), (tarred, 0.6)])
def test_a_damaged_archive_is_told_and_kept(tmp_path, make, keep):
    content = bytearray(make({"a": os.urandom(40_000)}))
    content[1000] ^= 1
    (tmp_path / "x").write_bytes(content[:int(len(content) * keep)])
    assert "does not unpack" in one_line(lambda: place(tmp_path / "x", tmp_path / "out"))
    assert (tmp_path / "x").exists()


def test_a_zip_that_does_not_fit_is_told_first(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(zipped({"a": bytes(5000)}))
    usage = fetch_data.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch_data.shutil, "disk_usage", lambda _: usage._replace(free=4999))
    assert "no room" in one_line(lambda: place(tmp_path / "x", tmp_path / "out"))
    assert not tree(tmp_path / "out")


def test_a_rar_is_unpacked_by_a_program_that_is_here(tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "unrar"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nfor last; do :; done\ncat "$last" > content\n')  # into the folder it is started in
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    (tmp_path / "x.rar").write_bytes(b"Rar!\x1a\x07\x00")
    place(tmp_path / "x.rar", tmp_path / "out")
    assert tree(tmp_path / "out") == {"content": b"Rar!\x1a\x07\x00"} and not (tmp_path / "x.rar").exists()
    tool.write_text("#!/bin/sh\necho broken volume >&2\nexit 3\n")
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    assert "broken volume" in one_line(lambda: place(tmp_path / "x.rar", tmp_path / "out"))


def test_a_missing_rar_program_is_told_before_hours_of_fetching(toy, site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_data, "DATASETS", {"toy": replace(toy, parts=(*toy.parts, Part(site.url + "/x.rar", "x.rar")))})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "unrar" in one_line(lambda: fetch_data.fetch_data("toy", tmp_path)) and not site.requests


# --- the owner's account -------------------------------------------------------------------------------------

CITY = zipped({"leftImg8bit_sequence/a.png": b"png"})


@pytest.fixture
def city(site, monkeypatch):
    """A site that gives its file to a session that has logged in, and tells its MD5."""
    def login(handler):
        body = site.requests[-1][3]
        if handler.command == "POST" and body == "username=me&password=s%26cret&submit=Login":
            handler.send(302, b"", {"Location": "/", "Set-Cookie": "session=yes"})
        else:
            handler.send(200, b"<html><title>Login</title></html>", {"Content-Type": "text/html"})

    def owner(handler):
        if handler.path.startswith("/login"):
            login(handler)
        elif handler.headers.get("Cookie") != "session=yes":
            handler.send(200, b"<html><title>Login</title></html>", {"Content-Type": "text/html"})
        elif handler.path.startswith("/md5-sum/"):
            handler.send(200, site.md5.encode(), {"Content-Type": "text/plain"})
        else:
            handler.send_file()
    site.md5 = hashlib.md5(CITY).hexdigest() + " city.zip"
    site.faults += [owner] * 20
    part = Part(site.put("/file-handling/?packageID=14", CITY), "city.zip")
    dataset = Dataset("city", "CITYSCAPES", "Cityscapes", site.url, "see its page", (part,), login=site.url)
    monkeypatch.setattr(fetch_data, "DATASETS", {"city": dataset})
    monkeypatch.setenv("CITYSCAPES_USERNAME", "me")
    monkeypatch.setenv("CITYSCAPES_PASSWORD", "s&cret")
    return site


def test_an_account_opens_the_file(city, tmp_path):
    assert tree(fetch_data.fetch_data("city", tmp_path)) == {"leftImg8bit_sequence/a.png": b"png"}


def test_a_wrong_password_is_told_and_not_printed(city, tmp_path, monkeypatch):
    monkeypatch.setenv("CITYSCAPES_PASSWORD", "guess")
    said = one_line(lambda: fetch_data.fetch_data("city", tmp_path))
    assert "does not accept" in said and "/register" in said and "guess" not in said


def test_the_owners_checksum_is_held_to(city, tmp_path):
    city.md5 = "0" * 32
    assert "MD5" in one_line(lambda: fetch_data.fetch_data("city", tmp_path)) and not tree(tmp_path)


def test_without_an_account_or_a_terminal_it_is_told_how(city, tmp_path, monkeypatch):
    monkeypatch.delenv("CITYSCAPES_PASSWORD")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    said = one_line(lambda: fetch_data.fetch_data("city", tmp_path))
    assert "CITYSCAPES_USERNAME" in said and "CITYSCAPES_PASSWORD" in said and not city.requests


def test_a_person_at_a_terminal_is_asked(city, tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True
    monkeypatch.delenv("CITYSCAPES_USERNAME")
    monkeypatch.delenv("CITYSCAPES_PASSWORD")
    monkeypatch.setattr("sys.stdin", Terminal("me\n"))
    monkeypatch.setattr(fetch_data.getpass, "getpass", lambda *_, **__: "s&cret")
    assert tree(fetch_data.fetch_data("city", tmp_path))
    printed = capsys.readouterr()
    assert "user:" in printed.err and not printed.out and "s&cret" not in printed.err
