"""Somebody at the console without a browser: for sizes, times and load."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from gateway import Gateway
from wait import expect, wait_for

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
    """A page that is open in somebody's browser: a process of its own reads its stream, so that what that costs is not the load's."""

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        self._connection = connection
        answer = connection.getresponse()
        expect(answer.status == 200, f"{path} answered {answer.status}")
        # A time limit of Python's makes the socket one that does not wait.
        connection.sock.settimeout(None)
        self._reader = subprocess.Popen(["cat"], stdin=connection.sock, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        expect(self._reader.poll() is None, "the stream has ended by itself")
        self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._reader.wait(10)
        self._connection.close()
