"""Fetch one file over HTTP: resumed, retried, checked, and at its place whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from tqdm import tqdm

if TYPE_CHECKING:
    import requests

DRIVE_HOSTS = ("drive.google.com", "drive.usercontent.google.com", "docs.google.com")
CHUNK = 1 << 14       # bytes; a connection that breaks loses less than this
PAUSE = 1.0           # seconds before the first retry; twice as long before each next
LONGEST_PAUSE = 60.0  # seconds
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP states that may be another in a minute


class _Again(Exception):
    """What went wrong may go right next time."""

    def __init__(self, reason: str, pause: float = 0.0, soon: bool = True):
        super().__init__(reason)
        self.pause = pause  # seconds that the server asks for
        self.soon = soon    # False: not while this command waits


def fetch(url: str, path: str | Path, *, check: Callable[[Path], None] = lambda file: None, size: int | None = None,
          session: requests.Session | None = None, tries: int = 5, timeout: float = 30.0, advice: str = "") -> Path:
    """Download `url` to `path`, going on from what an earlier call left in `path.part`.

    Args:
        check: raises ValueError for a file that is not the one wanted; then nothing is placed and the part is removed.
        size: bytes, where known beforehand.
        session: holds a login.
        tries: how often in a row nothing may arrive.
        timeout: seconds without a byte after which a connection counts as stalled.
        advice: what to do without the network, for the error.

    Raises:
        ValueError: unreachable, refused, a web page in place of the file, another file, no room, or fetched elsewhere now.
    """
    import requests  # a fifth of a second, which only downloads need
    path = Path(path)
    part = path.with_name(path.name + ".part")
    advice = advice or f"or fetch it elsewhere and put it at {path}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        session = session or stack.enter_context(requests.Session())
        file = stack.enter_context(_alone(part))
        bar = stack.enter_context(tqdm(total=size, initial=_length(file), desc=path.name, unit="B", unit_scale=True))
        failed = 0
        while True:
            before = _length(file)
            try:
                _receive(session, url, file, part, size, timeout, bar, advice)
                break
            except _Again as error:
                failed = 1 if _length(file) > before else failed + 1
                if failed >= tries or not error.soon:
                    kept = f", it goes on from the {_length(file)} bytes kept in {part}" if _length(file) else ""
                    raise ValueError(f"could not fetch {url}: {error} (tried {failed} times in a row); run the same command "
                                     f"again later{kept}, {advice}") from None
                time.sleep(min(max(error.pause, PAUSE * 2 ** (failed - 1)), LONGEST_PAUSE))
        file.flush()
        os.fsync(file.fileno())
        try:
            if size is not None and _length(file) != size:
                raise ValueError(f"{url} is another file: it has {_length(file)} bytes, {path.name} has {size}; {advice}")
            check(part)
        except ValueError:
            _forget(part)  # it must not be gone on from
            raise
        os.replace(part, path)
        _mark(part).unlink(missing_ok=True)
    return path


def _receive(session: requests.Session, url: str, file: BinaryIO, part: Path, size: int | None, timeout: float, bar: tqdm,
             advice: str) -> None:
    """Append what is missing of a file; _Again where that did not work out."""
    import requests
    headers = {"Accept-Encoding": "identity", "User-Agent": "Mozilla/5.0 (triplane-video)"}
    mark = _mark(part).read_text() if _mark(part).is_file() else ""
    if _length(file):
        headers["Range"] = f"bytes={_length(file)}-"
        if mark:
            headers["If-Range"] = mark  # the whole file comes instead, if it is another by now
    try:
        with contextlib.closing(_ask(session, url, headers, timeout, advice)) as response:
            whole = _begin(response, file, part, url, advice)
            if whole == _length(file):
                return
            if size is not None and whole is not None and whole != size:
                _forget(part)
                raise ValueError(f"{url} is another file: it has {whole} bytes, wanted {size}; {advice}")
            missing = (whole or size or 0) - _length(file)
            if (free := shutil.disk_usage(part.parent).free) < missing:
                raise ValueError(f"no room for {url}: {missing} bytes are to come, {part.parent} has {free} free; "
                                 "free the place or give another --out DIR")
            bar.total = whole or size
            bar.n = _length(file)
            bar.refresh()
            for block in response.iter_content(CHUNK):
                file.write(block)
                bar.update(len(block))
            file.flush()
            if whole is not None and _length(file) < whole:
                raise _Again(f"the connection ended after {_length(file)} of {whole} bytes")
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        file.flush()
        raise _Again(_reason(error), soon="NameResolution" not in str(error)) from None
    except requests.RequestException as error:
        raise ValueError(f"could not fetch {url}: {_reason(error)}; {advice}") from None


def _ask(session: requests.Session, url: str, headers: dict[str, str], timeout: float, advice: str) -> requests.Response:
    """The answer that holds the file; Google Drive asks to confirm large ones first."""
    response = session.get(url, headers=headers, stream=True, timeout=timeout)
    if response.status_code < 400 and _is_page(response) and urlsplit(url).hostname in DRIVE_HOSTS:
        response = session.get(_confirmed(response, url, advice), headers=headers, stream=True, timeout=timeout)
        if response.status_code < 400 and _is_page(response):
            _confirmed(response, url, advice)  # the notice that the limit is reached may come after the confirmation
    if response.status_code in PASSING:
        wait = response.headers.get("Retry-After", "")
        raise _Again(f"the server answers HTTP {response.status_code}", float(wait) if wait.isdigit() else 0.0)
    if response.status_code >= 400 and response.status_code != 416:
        raise ValueError(f"could not fetch {url}: the server answers HTTP {response.status_code} {response.reason}; "
                         f"it may have moved, {advice}")
    if response.status_code < 400 and _is_page(response):
        raise ValueError(f'{url} is a web page{_title(response)}, not the file: it may have moved or ask for a login; {advice}')
    return response


def _confirmed(response: requests.Response, url: str, advice: str) -> str:
    """Where a page of Google Drive leads to; ValueError where it says that the file is not given out."""
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import FileURLRetrievalError
    page = response.text
    limited = re.search(r"quota|too many users", page, re.IGNORECASE)
    try:
        return get_url_from_gdrive_confirmation(page)
    except FileURLRetrievalError:
        if limited:
            raise ValueError(f"Google Drive's download limit for {url} is reached (quota exceeded, it counts all users); "
                             f"try again in a day, or open the link in a browser with an account, {advice}") from None
        raise ValueError(f"Google Drive does not give out {url}{_title(response)}: it may be private or removed; "
                         f"{advice}") from None


def _begin(response: requests.Response, file: BinaryIO, part: Path, url: str, advice: str) -> int | None:
    """Bring the part to where the answer goes on, and return the bytes of the whole file, where the server tells."""
    length = response.headers.get("Content-Length", "")
    span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code == 416:  # nothing comes after what is there
        if span and span[2] == str(_length(file)):
            return _length(file)
        _restart(file, part)
        raise _Again("the part is longer than the file")
    if response.status_code == 206:
        if not span or span[1] != str(_length(file)):
            _restart(file, part)
            raise _Again("the server goes on at another place")
        return int(span[2]) if span[2] != "*" else None
    _restart(file, part)
    if mark := _version(response):
        _mark(part).write_text(mark)
    return int(length) if length.isdigit() else None


def _version(response: requests.Response) -> str:
    """What tells this version of a file from the next: a strong ETag, or the date of the change."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """Open a part to append to; two processes would mix their bytes."""
    with open(part, "ab", buffering=0) as file:
        with contextlib.suppress(ImportError):  # Windows has another lock
            import fcntl
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{part} is being fetched by another process; wait for it, or end it") from None
        try:
            yield file
        finally:
            if not _length(file):  # nothing to go on from
                _forget(part)


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _restart(file: BinaryIO, part: Path) -> None:
    file.truncate(0)
    _mark(part).unlink(missing_ok=True)


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _mark(part).unlink(missing_ok=True)


def _mark(part: Path) -> Path:
    """Beside a part: which version of the file it is of."""
    return part.with_name(part.name + ".version")


def _is_page(response: requests.Response) -> bool:
    return response.headers.get("Content-Type", "").split(";")[0].strip().lower() == "text/html"


def _title(response: requests.Response) -> str:
    found = re.search(r"<title>(.*?)</title>", response.text, re.IGNORECASE | re.DOTALL)
    return f' ("{" ".join(found[1].split())[:80]}")' if found and found[1].strip() else ""


def _reason(error: Exception) -> str:
    """One short line for what requests nests in several sentences."""
    text = str(error)
    if "NameResolution" in text:
        return "the host name cannot be resolved (no network?)"
    if "timed out" in text.lower():
        return "nothing arrived in time"
    if "IncompleteRead" in text:
        return "the connection ended early"
    return (text.splitlines() or [type(error).__name__])[0][:160]
