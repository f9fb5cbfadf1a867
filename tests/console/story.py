"""The console's story, as somebody at the cabinet would play it, and pictures of every page."""

from __future__ import annotations

import json
import signal
import tarfile
from pathlib import Path

from browser import Browser, Page
from cloud import Cloud
from gateway import ID, Gateway
from leaf import Bundle, Leaf
from stage import Helper, Stage, free_port
from visitor import NAME, PASSWORD, setup_code
from wait import expect, wait_for

# Wide as a laptop, narrow as a phone.
LOOKS = {"light": ("light", 1280, 900), "dark": ("dark", 1280, 900), "phone": ("light", 390, 844)}
DEVICE = "press-9"
BACKLOG = 60


def points(port: int, device: str = "press-1") -> str:
    """A Modbus device with a few points, one of them to be written."""
    return (
        f'[[modbus]]\nurl = "tcp://127.0.0.1:{port}"\n  [[modbus.device]]\n  id = "{device}"\n  unit = 1\n  interval = "200ms"\n'
        '  [[modbus.device.point]]\n  name = "ticks"\n  at = "input:0"\n  type = "u16"\n  description = "counts up"\n'
        '  [[modbus.device.point]]\n  name = "real"\n  at = "holding:6"\n  type = "f32"\n  order = "CDAB"\n  unit = "°C"\n'
        '  [[modbus.device.point]]\n  name = "setpoint"\n  at = "holding:20"\n  type = "f32"\n  access = "rw"\n  range = [0.0, 90.0]\n'
        '  [[modbus.device.point]]\n  name = "missing"\n  at = "holding:900"\n  type = "u16"\n'
    )


class Story:
    """What is played, in order."""

    def __init__(self, stage: Stage, pictures: Path, axe: str) -> None:
        self.stage, self.pictures, self.axe = stage, pictures, axe
        self.cloud = Cloud(stage, ID)
        self.plc_port = free_port()
        self.plc: Helper = stage.helper("plc", "modbus_peer.py", port=self.plc_port)
        self.gateway = Gateway(stage, self.cloud.section() + points(self.plc_port)).start(30)
        self.cloud.wait_online()
        address = f"127.0.0.1:{self.gateway.admin_port}"
        self.browser = Browser(stage)
        self.page: Page = self.browser.page(address)
        self.base = f"http://{address}"
        self.leaf: Leaf | None = None
        self.findings: list[str] = []
        self.pages = 0

    def goto(self, path: str) -> None:
        self.page.goto(self.base + path)

    def look(self, name: str) -> None:
        """Pictures of the page as it is, and what stands in somebody's way on it."""
        page = self.page
        for look, (scheme, width, height) in LOOKS.items():
            page.looks(scheme, width, height)
            page.settle()
            page.shot(self.pictures / f"{name}-{look}.png")
            if wide := page.too_wide():
                self.findings.append(f"{name} ({look}): {wide}")
            # Of the same page on a phone it finds the same.
            if look != "phone":
                self.findings += [f"{name} ({look}): {finding}" for finding in page.findings(self.axe)]
        page.looks("light", 1280, 900)
        self.pages += 1

    def set_up(self) -> None:
        """The first account by the code of the log; out, and in again."""
        page = self.page
        self.goto("/console")
        page.wait_text("Set-up code")
        self.look("setup")
        for field, value in {"code": setup_code(self.gateway), "name": NAME, "password": PASSWORD, "again": PASSWORD}.items():
            page.fill(f"#{field}", value)
        page.click_to("main button")
        page.wait_text(NAME, within="header")
        page.click_to("header button", "Sign out")
        page.wait_text("Password")
        self.look("login")
        page.fill("#name", NAME)
        page.fill("#password", PASSWORD)
        page.click_to("main button", "Sign in")
        page.wait_text("Upstream", within="main")
        page.wait_text("live", within="#live-state")

    def enrol(self) -> None:
        """A device is added, and its bundle fetched by the browser is what a real client connects with."""
        page = self.page
        page.click_to("nav a", "Enrolment")
        self.look("enrolment")
        page.fill("#device-id", DEVICE)
        page.click_to("button", "Add the device")
        page.wait_text("given once")
        self.look("bundle")
        page.click("button", f"Download {DEVICE}.tar")
        bundle = self.browser.downloads / f"{DEVICE}.tar"
        wait_for("the downloaded bundle", 20, bundle.exists)
        folder = self.stage.folder / "bundle"
        with tarfile.open(bundle) as tar:
            tar.extractall(folder, filter="data")
        files = Bundle(DEVICE, *(folder / DEVICE / name for name in ("ca.pem", "cert.pem", "key.pem")))
        page.goto(f"{self.base}/console/device/{DEVICE}")
        page.wait_text("never heard of")
        self.leaf = self.gateway.leaf(files).connect()
        page.wait_text("online", within="#state")
        self.leaf.telemetry(json.dumps({"temperature": 21.5, "note": "<script>alert(1)</script>"}), stream="oven")
        page.wait_text('"temperature": 21.5', within="#streams")
        page.wait_text("<script>alert(1)</script>", within="#streams")
        self.leaf.telemetry('{"temperature": 22.5}', stream="oven")
        page.wait_text('"temperature": 22.5', within="#streams")
        self.look("device-leaf")
        page.goto(f"{self.base}/console/enrol")
        page.fill("#token-id", "press-10")
        page.click_to("button", "Make the token")
        page.wait("the QR code", "!!document.querySelector('svg.qr')")
        self.look("token")

    def write(self) -> None:
        """A point is written, and the audit log has old and new."""
        page = self.page
        self.goto("/console/device/press-1")
        page.wait_text("10", within="main table")
        before = page.text("#point-0")
        page.wait("a value that changes", f"document.querySelector('#point-0').innerText !== {json.dumps(before)}")
        self.look("device-field")
        page.fill("form:has(input[value=setpoint]) input[name=value]", "42.5")
        page.click_to("form:has(input[value=setpoint]) button")
        page.wait_text("Are you sure?")
        page.wait_text("Now: 10")
        self.look("write")
        page.click_to("main form button", "Do it")
        page.wait_text("Done")
        expect(self.plc.ask("setpoint") == 42.5, "the device has another setpoint")
        page.goto(f"{self.base}/console/audit?q=field_write")
        page.wait_text("42.5", within="main")
        line = page.text("main tbody tr")
        expect("old 10.0" in line and "new 42.5" in line, f"the audit line has not old and new: {line}")
        expect(NAME in page.text("main"), "the audit line doesn't name who did it")
        self.look("audit")

    def outage(self) -> None:
        """The line upstream is cut: the buffer grows before one's eyes, and drains when it is mended."""
        page = self.page
        assert self.leaf is not None
        self.goto("/console/buffer")
        page.wait_text("takes messages")
        self.cloud.relay.ask("cut")
        for n in range(BACKLOG):
            self.leaf.telemetry(json.dumps({"n": n}), stream="oven")
        waiting = "parseInt([...document.querySelectorAll('#summary dt')].find(e => e.innerText.includes('Messages waiting')).nextElementSibling.innerText)"
        page.wait("the buffer to grow", f"{waiting} >= {BACKLOG}")
        self.look("buffer-growing")
        self.goto("/console")
        page.wait_text("the upstream is not connected")
        self.look("overview-trouble")
        self.goto("/console/buffer")
        self.cloud.relay.ask("mend")
        # Those of the field device come all the time.
        page.wait("the buffer to drain", f"{waiting} < 10", 30)
        self.look("buffer")

    def reload(self) -> None:
        """Another configuration: its plan, and what became of it."""
        page = self.page
        self.goto("/console/configuration")
        page.wait_text("would change nothing")
        broken = self.cloud.section() + points(self.plc_port) + "[buffer]\nmax_age = true\n"
        self.gateway.write(broken)
        self.goto("/console/configuration")
        page.wait_text("max_age")
        self.look("configuration-broken")
        self.gateway.write(self.cloud.section() + points(self.plc_port) + '[[policy]]\nwho = "press-9"\nallow = "subscribe"\nfilter = "plant/#"\n')
        self.goto("/console/configuration")
        page.wait_text("policy")
        self.look("configuration")
        page.click_to("button", "Reload the configuration")
        page.wait_text("the file is in force")
        self.look("reload")
        self.goto("/console/policy")
        page.fill("#who", DEVICE)
        page.choose("#action", "subscribe")
        page.fill("#topic", "plant/line-1")
        page.click_to("button", "Explain")
        page.wait_text("allowed")
        self.look("policy")

    def other_pages(self) -> None:
        page = self.page
        self.goto("/console/links")
        page.wait_text("up", within="#links")
        self.look("links")
        page.click_to("main tbody a")
        page.wait_text("Poll plan")
        self.look("link")
        self.goto("/console/logs?level=info&q=reload")
        page.wait_text("the configuration was reloaded")
        self.look("logs")
        self.goto("/console/logs?level=debug")
        page.wait_text("live", within="#live-state")
        self.gateway.write("nonsense = 1\n" + self.cloud.section() + points(self.plc_port))
        self.gateway.running().process.send_signal(signal.SIGHUP)
        page.wait_text("the configuration was not reloaded", within="#lines")
        self.goto("/console/charts")
        page.wait("figures on the charts", "[...document.querySelectorAll('.chart-line')].filter(e => e.getAttribute('d')).length >= 6", 40)
        self.look("charts")
        self.goto("/console/charts?span=day")
        self.look("charts-day")
        self.goto("/console/account")
        self.look("account")
        self.goto("/console/devices")
        page.wait_text(DEVICE)
        self.look("devices")
        self.goto("/console")
        page.wait_text("Upstream")
        self.look("overview")

    def revoke(self) -> None:
        """Revoked: gone for the client and on the page."""
        page = self.page
        assert self.leaf is not None
        self.goto(f"/console/device/{DEVICE}")
        page.wait_text("online", within="#state")
        page.click_to("a", "Revoke this device")
        self.look("revoke")
        page.click_to("main form button")
        expect(self.leaf.disconnected.wait(5), "the client of a revoked device is still connected")
        page.wait_text("revoked", within="#state")
        self.look("device-revoked")

    def without_script(self) -> None:
        """Everything can be read with scripts switched off."""
        page = self.page
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        for path, text in {"/console": "Upstream", "/console/devices": DEVICE, "/console/buffer": "Lanes", "/console/charts": "Memory"}.items():
            self.goto(path)
            page.wait_text(text)
        page.call("Emulation.setScriptExecutionDisabled", value=False)

    def refused(self) -> None:
        """What is not there says what to do."""
        page = self.page
        errors = len(page.errors)
        self.goto("/console/nowhere")
        page.wait_text("there is no such page")
        self.look("not-here")
        # The browser writes an answer of 404 to its log.
        page.errors[errors:] = [error for error in page.errors[errors:] if "404" not in error]


def story(stage: Stage, pictures: Path, axe: str) -> None:
    """All of it."""
    played = Story(stage, pictures, axe)
    for part in (played.set_up, played.enrol, played.write, played.outage, played.reload, played.other_pages, played.revoke,
                 played.without_script, played.refused):
        part()
        print(f"   {part.__name__}: done", flush=True)
        page = played.page
        expect(not page.errors, f"{part.__name__}: the pages complain: {page.errors}")
        expect(not page.strangers, f"{part.__name__}: asked of others: {page.strangers}")
    stage.figure("pages looked at", played.pages)
    expect(not played.findings, "what stands in somebody's way:\n" + "\n".join(played.findings))
