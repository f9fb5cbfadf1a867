"""Chromium without a screen, spoken to by its own protocol (CDP): pages, keys and clicks as a person makes them, what went
wrong in a page, and whom it asked for something.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import websocket

from stage import Stage
from wait import Failed, expect, wait_for

# What a person would wait for before giving up; debug builds on a busy machine are slow.
PATIENCE = 20.0


class Browser:
    """One Chromium with a profile of its own. It can reach 127.0.0.1 and nothing else."""

    def __init__(self, stage: Stage) -> None:
        profile = stage.folder / "profile"
        self.downloads = stage.folder / "downloads"
        self.downloads.mkdir()
        self._stage = stage
        argv = [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
            "--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en-GB",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank",
        ]
        self.process = stage.child("chromium", argv)
        file = profile / "DevToolsActivePort"

        def told() -> list[str] | None:
            expect(self.process.alive(), "chromium ended at its start; its log is kept")
            return lines if file.exists() and len(lines := file.read_text().split()) == 2 else None

        self._port = int(wait_for("chromium's port", 30, told)[0])

    def page(self, ours: str) -> Page:
        """A new tab, which must ask nobody but `ours` (host:port) for anything."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            target = json.load(answer)
        page = Page(target["webSocketDebuggerUrl"], ours)
        self._stage.at_end(page.close)
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return page


class Page:
    """One tab."""

    def __init__(self, address: str, ours: str) -> None:
        self._socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True, max_size=None)
        self._number = 0
        self._ours = ours
        self._loads = 0
        # What a page complained of, and who else was asked: both must stay empty.
        self.errors: list[str] = []
        self.strangers: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._socket.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Asks the browser, and takes note of what happens meanwhile."""
        self._number += 1
        number = self._number
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise Failed(f"chromium: {method}: {message['error'].get('message')}")
                return message["result"]
            if "method" in message:
                self._happened(message["method"], message["params"])

    def _happened(self, event: str, told: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loads += 1
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.errors.append(f"exception: {details.get('text')} {details.get('exception', {}).get('description', '')}")
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "assert"):
                self.errors.append(f"console: {[argument.get('value') for argument in told['args']]}")
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.errors.append(f"log: {told['entry']['text']} {told['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                url = urlsplit(told["request"]["url"])
                if url.scheme not in ("data", "blob", "about") and url.netloc != self._ours:
                    self.strangers.append(told["request"]["url"])

    def evaluate(self, expression: str, wait: bool = False) -> Any:
        """The value of a JavaScript expression in the page."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait)
        if "exceptionDetails" in said:
            raise Failed(f"in the page: {said['exceptionDetails'].get('exception', {}).get('description')}: {expression[:200]}")
        return said["result"].get("value")

    def goto(self, url: str) -> None:
        """Opens an address and waits until the page is there."""
        before = self._loads
        said = self.call("Page.navigate", url=url)
        expect("errorText" not in said, f"{url}: {said.get('errorText')}")
        wait_for(f"the page {url}", PATIENCE, lambda: self.evaluate("document.readyState") == "complete" and self._loads > before)

    def wait(self, what: str, expression: str, seconds: float = PATIENCE) -> Any:
        """Until the expression is true; a page that is on its way is waited for, too."""
        def holds() -> Any:
            try:
                return self.evaluate(expression)
            except Failed as error:
                # The page it was asked of is gone: the next one will say.
                if "context" in str(error).lower() or "navigat" in str(error).lower():
                    return None
                raise
        try:
            return wait_for(what, seconds, holds, every=0.1)
        except Failed as error:
            shown = self.evaluate("document.title + ' | ' + document.body.innerText.slice(0, 1500)")
            raise Failed(f"{error}\nthe page {self.evaluate('location.href')} shows: {shown}") from None

    def wait_text(self, text: str, seconds: float = PATIENCE, within: str = "body") -> None:
        """Until the page shows this text."""
        self.wait(f"`{text}` on the page", f"(document.querySelector({json.dumps(within)})?.innerText ?? '').includes({json.dumps(text)})", seconds)

    def text(self, selector: str = "body") -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def click(self, selector: str, text: str | None = None) -> None:
        """Clicks the middle of an element, the first that holds `text`, as a person does."""
        find = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".find(e => {json.dumps(text)} === null || e.innerText.includes({json.dumps(text)}))"
        )
        self.wait(f"the element {selector} {text or ''}", f"!!({find})")
        box = self.evaluate(
            f"(() => {{ const e = {find}; e.scrollIntoView({{block: 'center', behavior: 'instant'}}); const b = e.getBoundingClientRect();"
            " return [b.left + b.width / 2, b.top + b.height / 2, b.width * b.height]; })()"
        )
        expect(box[2] > 0, f"{selector} {text or ''} can't be clicked: it takes no place on the page")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def click_to(self, selector: str, text: str | None = None) -> None:
        """Clicks what leads to another page, and waits for that."""
        before = self._loads
        self.click(selector, text)
        wait_for(f"the page behind {selector} {text or ''}", PATIENCE, lambda: self.evaluate("document.readyState") == "complete" and self._loads > before)

    def fill(self, selector: str, value: str) -> None:
        """Types into a field, in place of what stands there."""
        self.wait(f"the field {selector}", f"!!document.querySelector({json.dumps(selector)})")
        self.evaluate(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select?.(); }})()")
        self.call("Input.insertText", text=value)

    def choose(self, selector: str, value: str) -> None:
        """Chooses from a list."""
        chosen = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            " e.dispatchEvent(new Event('change', {bubbles: true})); return e.value; })()"
        )
        expect(chosen == value, f"{selector} does not offer {value}")

    def looks(self, scheme: str, width: int, height: int) -> None:
        """Light or dark, and how large."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def shot(self, file: Path) -> None:
        """The whole page as a picture, at most 4,000 pixels high."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4_000), "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        file.write_bytes(base64.b64decode(data))

    def too_wide(self) -> str | None:
        """What sticks out of the page sideways, so that one would have to scroll to read it."""
        return self.evaluate(
            "(() => { const w = document.documentElement.clientWidth; if (document.documentElement.scrollWidth <= w + 1) return null;"
            " const e = [...document.querySelectorAll('body *')].find(e => e.getBoundingClientRect().right > w + 1);"
            " return (e?.tagName ?? '?') + '.' + (e?.className ?? '') + ': page ' + document.documentElement.scrollWidth + ' px of ' + w; })()"
        )

    def findings(self, axe: str) -> list[str]:
        """What axe-core finds serious or critical."""
        # Evaluated by the browser, not by the page: the page's policy forbids what doesn't come from the gateway.
        self.evaluate(f"{axe}\n;0")
        found = self.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v =>"
            " [v.impact, v.id + ': ' + v.help + ' at ' + v.nodes.slice(0, 3).map(n => n.target.join(' ')).join(', ')]))",
            wait=True,
        )
        return [text for impact, text in found if impact in ("serious", "critical")]

    def settle(self) -> None:
        """A moment in which nothing new happens: events that are on their way are taken note of."""
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            self.evaluate("0")
            time.sleep(0.05)
