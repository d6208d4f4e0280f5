"""Fetching from a site that breaks off, stalls, lies and refuses."""

import pytest
from web import served

from tools import fetch as module
from tools.fetch import CHUNK, fetch
from tools.rng import numpy_rng

CONTENT = numpy_rng(0, "file").bytes(10 * CHUNK + 77)


@pytest.fixture
def site(monkeypatch):
    with served(monkeypatch) as site:
        yield site


def left(folder):
    return sorted(file.name for file in folder.iterdir())


def one_line(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_arrives_whole_and_alone(site, tmp_path, capsys):
    path = fetch(site.put("/a.bin", CONTENT), tmp_path / "new" / "a.bin")
    assert path.read_bytes() == CONTENT and left(path.parent) == ["a.bin"]
    printed = capsys.readouterr()
    assert "a.bin" in printed.err and not printed.out  # the bar


@pytest.mark.parametrize("fault", ["truncate", "stall"])
def test_what_breaks_off_is_gone_on_from(site, tmp_path, fault):
    url = site.put("/a.bin", CONTENT)
    getattr(site, fault)(4 * CHUNK)
    getattr(site, fault)(2 * CHUNK)
    assert fetch(url, tmp_path / "a.bin", timeout=0.3).read_bytes() == CONTENT
    assert site.asked == [None, f"bytes={4 * CHUNK}-", f"bytes={6 * CHUNK}-"]


def test_the_next_call_goes_on_where_the_last_gave_up(site, tmp_path):
    url = site.put("/a.bin", CONTENT)
    site.truncate(4 * CHUNK)
    for _ in range(3):
        site.refuse(503)
    said = one_line(lambda: fetch(url, tmp_path / "a.bin", tries=3))
    assert "HTTP 503" in said and f"{4 * CHUNK} bytes kept" in said and str(tmp_path / "a.bin.part") in said
    assert not (tmp_path / "a.bin").exists()
    assert fetch(url, tmp_path / "a.bin").read_bytes() == CONTENT
    assert site.asked[-1] == f"bytes={4 * CHUNK}-" and left(tmp_path) == ["a.bin"]


def test_retries_count_only_in_a_row_without_progress(site, tmp_path):
    url = site.put("/a.bin", CONTENT)
    for _ in range(6):
        site.truncate(CHUNK + 5)  # less than a chunk is lost each time
    assert fetch(url, tmp_path / "a.bin", tries=2).read_bytes() == CONTENT


def test_pauses_double_and_the_server_may_ask_for_longer(site, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(module, "PAUSE", 1.0)
    url = site.put("/a.bin", CONTENT)
    for after in ("", "", "7", ""):
        site.refuse(429, **({"Retry_After": after} if after else {}))
    fetch(url, tmp_path / "a.bin")
    assert pauses == [1, 2, 7, 8]


def test_a_file_that_changed_meanwhile_is_not_mixed(site, tmp_path):
    url = site.put("/a.bin", CONTENT)
    site.truncate(4 * CHUNK)
    site.refuse(404)
    one_line(lambda: fetch(url, tmp_path / "a.bin"))
    site.put("/a.bin", CONTENT[::-1])
    assert fetch(url, tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_a_site_without_ranges_starts_over(site, tmp_path):
    site.ranges = False
    url = site.put("/a.bin", CONTENT)
    site.truncate(4 * CHUNK)
    assert fetch(url, tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("span", ["bytes 0-9/10", None])
def test_a_site_that_goes_on_elsewhere_is_asked_for_all_of_it(site, tmp_path, span):
    url = site.put("/a.bin", CONTENT)
    site.truncate(4 * CHUNK)
    site.faults.append(lambda handler: handler.send(206, CONTENT[:10], {"Content-Range": span} if span else {}))
    assert fetch(url, tmp_path / "a.bin").read_bytes() == CONTENT
    assert site.asked[-1] is None


def test_a_part_that_is_whole_already_is_placed(site, tmp_path):
    url = site.put("/a.bin", CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(url, tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_dropped(site, tmp_path):
    url = site.put("/a.bin", CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"x")
    assert fetch(url, tmp_path / "a.bin").read_bytes() == CONTENT


def test_another_file_is_not_placed_and_not_gone_on_from(site, tmp_path):
    def check(file):
        if file.read_bytes() != CONTENT:
            raise ValueError("another file")
    url = site.put("/a.bin", CONTENT[::-1])
    (tmp_path / "a.bin").write_bytes(b"old")
    assert one_line(lambda: fetch(url, tmp_path / "a.bin", check=check)) == "another file"
    assert left(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"old"


def test_another_size_is_told_before_it_is_fetched(site, tmp_path):
    said = one_line(lambda: fetch(site.put("/a.bin", CONTENT), tmp_path / "a.bin", size=7))
    assert f"{len(CONTENT)} bytes, wanted 7" in said and left(tmp_path) == []


def test_a_web_page_is_not_taken_for_the_file(site, tmp_path):
    url = site.put("/a.bin", CONTENT)
    site.page("<html><title>Please\n log in</title></html>")
    assert '"Please log in"' in one_line(lambda: fetch(url, tmp_path / "a.bin")) and left(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(site, tmp_path, status):
    site.refuse(status)
    said = one_line(lambda: fetch(site.url + "/a.bin", tmp_path / "a.bin"))
    assert f"HTTP {status}" in said and f"put it at {tmp_path / 'a.bin'}" in said and len(site.requests) == 1


def test_without_a_network_the_place_is_told(tmp_path, monkeypatch):
    with served(monkeypatch) as site:
        url = site.url + "/a.bin"
    said = one_line(lambda: fetch(url, tmp_path / "a.bin", tries=2))
    assert url in said and f"put it at {tmp_path / 'a.bin'}" in said and left(tmp_path) == []


def test_a_host_without_a_name_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(module.time, "sleep", None)  # a call would be a TypeError
    said = one_line(lambda: fetch("http://nowhere.invalid/a.bin", tmp_path / "a.bin"))  # a name that RFC 2606 keeps free
    assert "no network?" in said and f"put it at {tmp_path / 'a.bin'}" in said and left(tmp_path) == []


def test_a_full_disk_is_told_before_it_is_filled(site, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    said = one_line(lambda: fetch(site.put("/a.bin", CONTENT), tmp_path / "a.bin"))
    assert f"{len(CONTENT) - 1} free" in said and left(tmp_path) == []


def test_two_do_not_write_one_part(site, tmp_path):
    url = site.put("/a.bin", CONTENT)
    with module._alone(tmp_path / "a.bin.part") as file:
        file.write(b"mine")
        assert "another process" in one_line(lambda: fetch(url, tmp_path / "a.bin"))
    assert (tmp_path / "a.bin.part").read_bytes() == b"mine"


# --- Google Drive --------------------------------------------------------------------------------------------

QUOTA = ('<html><head><title>Google Drive - Quota exceeded</title></head><body><p class="uc-error-subcaption">Too many users '
         'have viewed or downloaded this file recently. Please try accessing the file again later.</p></body></html>')
PRIVATE = "<html><head><title>Google Drive - Access Denied</title></head><body>You need access</body></html>"


@pytest.fixture
def drive(site, monkeypatch):
    monkeypatch.setattr(module, "DRIVE_HOSTS", ("127.0.0.1",))
    return site


def confirm(site):
    """The page on files too large for a scan, which leads to the file."""
    return ('<html><title>Google Drive - Virus scan warning</title><form id="download-form" '
            f'action="{site.url}/download" method="get"><input type="hidden" name="id" value="x"/>'
            '<input type="hidden" name="confirm" value="t"/></form></html>')


def test_drive_is_told_to_go_on(drive, tmp_path):
    drive.put("/download?id=x&confirm=t", CONTENT)
    drive.page(confirm(drive))
    assert fetch(drive.url + "/uc?id=x", tmp_path / "a.bin").read_bytes() == CONTENT


def test_drive_goes_on_too(drive, tmp_path):
    drive.put("/download?id=x&confirm=t", CONTENT)
    drive.page(confirm(drive))
    drive.truncate(4 * CHUNK)
    drive.page(confirm(drive))
    assert fetch(drive.url + "/uc?id=x", tmp_path / "a.bin").read_bytes() == CONTENT
    assert drive.asked == [None, None, *[f"bytes={4 * CHUNK}-"] * 2]


@pytest.mark.parametrize("after_confirming", [False, True])
def test_a_reached_quota_is_told_as_such(drive, tmp_path, after_confirming):
    if after_confirming:
        drive.page(confirm(drive))
    drive.page(QUOTA)
    said = one_line(lambda: fetch(drive.url + "/uc?id=x", tmp_path / "a.bin"))
    assert "quota" in said and "in a day" in said and f"put it at {tmp_path / 'a.bin'}" in said and left(tmp_path) == []


def test_a_private_file_is_told_as_such(drive, tmp_path):
    drive.page(PRIVATE)
    said = one_line(lambda: fetch(drive.url + "/uc?id=x", tmp_path / "a.bin"))
    assert "private or removed" in said and "quota" not in said
