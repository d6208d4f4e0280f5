"""A web site on this machine that can be told to fail: the network of the tests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools import fetch


class Site:
    """Files by path, faults that the next answers have, and the requests that came.

    A fault is a function of the handler that answers in place of the file; each serves one request.
    """

    def __init__(self, url: str):
        self.url = url
        self.files: dict[str, bytes] = {}
        self.faults: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[tuple[str, str, dict[str, str], str]] = []  # method, path, headers, body
        self.ranges = True    # whether a request may begin in the middle
        self.closing = threading.Event()

    def put(self, path: str, content: bytes) -> str:
        self.files[path] = content
        return self.url + path

    @property
    def asked(self) -> list[str | None]:
        """The Range of each request."""
        return [headers.get("Range") for _, _, headers, _ in self.requests]

    def truncate(self, count: int) -> None:
        """The next answer promises the whole and ends after so many bytes."""
        self.faults.append(lambda handler: handler.send_file(upto=count))

    def stall(self, count: int) -> None:
        """The next answer stops after so many bytes and keeps the line open."""
        def fault(handler):
            handler.send_file(upto=count)
            self.closing.wait(10)
        self.faults.append(fault)

    def refuse(self, status: int, **headers: str) -> None:
        self.faults.append(lambda handler: handler.send(status, b"", headers))

    def page(self, text: str, status: int = 200) -> None:
        """The next answer is a web page."""
        self.faults.append(lambda handler: handler.send(status, text.encode(), {"Content-Type": "text/html; charset=utf-8"}))


@contextmanager
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site for the time of a test, which no proxy stands before and which is not waited for long."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(fetch, "PAUSE", 0.01)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # each answer ends its connection

        def do_GET(self):
            length = int(self.headers.get("Content-Length") or 0)
            site.requests.append((self.command, self.path, dict(self.headers), self.rfile.read(length).decode()))
            if site.faults:
                site.faults.pop(0)(self)
            else:
                self.send_file()

        do_POST = do_GET

        def send(self, status: int, content: bytes, headers: dict[str, str], upto: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content[:upto])
            self.wfile.flush()

        def send_file(self, upto: int | None = None) -> None:
            content = site.files.get(self.path)
            if content is None:
                self.send(404, b"", {})
                return
            tag, start = f'"{hashlib.sha256(content).hexdigest()}"', 0
            if site.ranges and "Range" in self.headers and self.headers.get("If-Range", tag) == tag:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            kind = {"Content-Type": "application/octet-stream", "ETag": tag}
            if start >= len(content) > 0:
                self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            elif start:
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send(206, content[start:], kind | {"Content-Range": span}, upto)
            else:
                self.send(200, content, kind, upto)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
