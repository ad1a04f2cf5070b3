"""Object storage on this machine behind a door that fails when it is told to."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from s3_server import s3_server

KEY, SECRET = "AKIDNOTTOBESEEN", "secret-not-to-be-seen/anywhere"

# As S3 words it.
CODES = {403: "AccessDenied", 404: "NoSuchKey", 429: "TooManyRequests", 500: "InternalError", 502: "BadGateway",
         503: "ServiceUnavailable"}  # fmt: skip

# No answer at all: the connection is closed.
LOST = -1

Judge = Callable[[str, str, int], int]
"""Of the method, the path and how often it was asked for: the status to fail with, LOST, or 0 to let it through."""


class Door:
    """Forwards requests, counts them by method and path, and fails those that `judge` says; `delay_s` slows all."""

    def __init__(self, behind: str) -> None:
        self.behind = urlsplit(behind)
        self.judge: Judge = lambda method, path, times: 0
        self.delay_s = 0.0
        self.asked: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Lets everything through and forgets what was asked."""
        self.judge, self.delay_s = (lambda method, path, times: 0), 0.0
        self.asked.clear()

    def count(self, method: str, path: str) -> int:
        """How often this was asked for, this time included."""
        with self._lock:
            self.asked[method, path] += 1
            return self.asked[method, path]


@contextmanager
def flaky_s3() -> Iterator[tuple[str, Door]]:
    """The address of the door, and the door; behind it is a server of S3."""
    with s3_server() as behind:
        door = Door(behind)
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(door))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", door
        finally:
            server.shutdown()
            server.server_close()


def _handler(door: Door) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            times = door.count(self.command, unquote(urlsplit(self.path).path))
            time.sleep(door.delay_s)
            status = door.judge(self.command, unquote(self.path), times)
            if status == LOST:
                self.close_connection = True
                return
            if status:
                self._answer(status, f"<Error><Code>{CODES[status]}</Code></Error>".encode(), {})
                return
            passed = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection = http.client.HTTPConnection(door.behind.hostname or "", door.behind.port, timeout=30)
            connection.request(self.command, self.path, body, passed)
            answer = connection.getresponse()
            self._answer(answer.status, answer.read(), dict(answer.getheaders()))
            connection.close()

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            told = {name.lower(): value for name, value in headers.items()}
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = told.get("content-length", str(len(content))) if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    return Handler
