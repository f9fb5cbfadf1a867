"""Somebody at the console without a browser: for sizes, times and load."""

from __future__ import annotations

import http.client
import re
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from gateway import Gateway
from wait import Failed, expect, wait_for

NAME, PASSWORD = "anna", "correct horse battery"


def setup_code(gateway: Gateway) -> str:
    """The code for the first account, as the log tells it."""
    def told() -> str | None:
        found = re.findall(r'the console has no account yet.* code="?([a-z0-9-]+)', gateway.log_text())
        return found[-1] if found else None
    return wait_for("the set-up code in the gateway's log", 10, told)


@dataclass(frozen=True)
class Answer:
    """What came back, and how long it took to its last byte."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    seconds: float


class Visitor:
    """One session."""

    def __init__(self, gateway: Gateway) -> None:
        self._address = f"127.0.0.1:{gateway.admin_port}"
        self._cookie = ""

    def set_up(self, code: str) -> Visitor:
        """Makes the first account, and is signed in."""
        form = {"code": code, "name": NAME, "password": PASSWORD, "again": PASSWORD}
        return self._enter("/console/setup", form)

    def _enter(self, path: str, form: dict[str, str]) -> Visitor:
        answer = self.ask("POST", path, form)
        cookie = answer.headers.get("Set-Cookie")
        expect(answer.status == 303 and cookie, f"{path} answered {answer.status}: {answer.body[:500].decode()}")
        self._cookie = cookie.split(";")[0]
        return self

    def _request(self, method: str, path: str, form: dict[str, str] | None, seconds: float) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._address, timeout=seconds)
        headers = {"Host": self._address, "Cookie": self._cookie}
        body = None
        if form is not None:
            body = urlencode(form)
            headers |= {"Origin": f"http://{self._address}", "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, headers)
        return connection

    def ask(self, method: str, path: str, form: dict[str, str] | None = None) -> Answer:
        """One request and its answer, which is not followed."""
        began = time.monotonic()
        connection = self._request(method, path, form, 60)
        try:
            answer = connection.getresponse()
            body = answer.read()
            return Answer(answer.status, answer.headers, body, time.monotonic() - began)
        finally:
            connection.close()

    def watch(self, path: str) -> Watching:
        """Keeps the live parts of a page open."""
        return Watching(self._request("GET", path, None, 60), path)


class Watching:
    """A page that is open in somebody's browser."""

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        self._connection = connection
        answer = connection.getresponse()
        expect(answer.status == 200, f"{path} answered {answer.status}")
        self.events = 0
        self.bytes = 0
        self._closing = False
        self._answer = answer
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._closing:
            try:
                line = self._answer.readline()
            except (OSError, http.client.HTTPException, ValueError, AttributeError):
                return
            if not line:
                return
            self.bytes += len(line)
            self.events += line.startswith(b"data:")

    def close(self) -> None:
        self._closing = True
        if self._connection.sock is not None:
            self._connection.sock.shutdown(2)
        self._thread.join(10)
        if self._thread.is_alive():
            raise Failed("a stream did not end")
        self._connection.close()
