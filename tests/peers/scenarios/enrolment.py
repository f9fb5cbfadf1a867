"""Enrolment and renewal over EST as the README shows them: curl and openssl alone."""

from __future__ import annotations

import json
from pathlib import Path

from gateway import Gateway
from leaf import Bundle
from scenarios.certificates import PEM, verify
from stage import Stage, command, free_port
from wait import expect, wait_for

ID = "press-1"


class Device:
    """A device's folder: its key, its requests, its certificate."""

    def __init__(self, stage: Stage, gateway: Gateway, port: int) -> None:
        self.folder = stage.folder / ID
        self.folder.mkdir()
        self.base = f"https://127.0.0.1:{port}/.well-known/est"
        self.ca = self.folder / "ca.pem"
        self.ca.write_text(gateway.verb("ca", "export"))

    def key(self, name: str) -> Path:
        """A new key, and a request for it in base64; the key's file."""
        key = self.folder / f"{name}.key"
        self.run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key))
        key.chmod(0o600)
        request = self.folder / f"{name}.der"
        self.run("openssl", "req", "-new", "-key", str(key), "-subj", "/CN=anything", "-outform", "DER", "-out", str(request))
        self.run("openssl", "base64", "-in", str(request), "-out", str(self.folder / f"{name}.b64"))
        return key

    def ask(self, operation: str, *how: str) -> tuple[int, str]:
        """The status and the body of the answer."""
        done = command(["curl", "-sS", "--max-time", "20", "--cacert", str(self.ca), "-w", "\n%{http_code}", *how, f"{self.base}/{operation}"])
        body, _, status = done.stdout.rpartition("\n")
        expect(status.isdigit(), f"curl said {done.stdout}{done.stderr}")
        return int(status), body

    def post(self, operation: str, name: str, *how: str) -> tuple[int, str]:
        """Posts the request of that name."""
        content = ("-H", "Content-Type: application/pkcs10", "--data-binary", f"@{self.folder / name}.b64")
        return self.ask(operation, *content, *how)

    def certificates(self, name: str, answer: str) -> Path:
        """The certificates in an answer, by openssl."""
        pem = self.folder / f"{name}.pem"
        der = self.run("openssl", "pkcs7", "-inform", "PEM", "-print_certs",
                       text=f"-----BEGIN PKCS7-----\n{answer.strip()}\n-----END PKCS7-----\n")
        pem.write_text("".join(PEM.findall(der)))
        return pem

    def run(self, *argv: str, text: str = "") -> str:
        done = command(argv, cwd=self.folder, text=text)
        expect(done.returncode == 0, f"`{' '.join(argv)}`: {done.stderr}")
        return done.stdout


def audited(gateway: Gateway, *words: str) -> bool:
    return any(all(word in line for word in words) for line in gateway.verb("audit").splitlines())


def revocation_lists(stage: Stage) -> None:
    """`openssl verify -crl_check_all` with the lists on disk, over HTTPS and on the admin address; revoked at once."""
    port = free_port()
    gateway = Gateway(stage, f'[enrolment]\nlisten = "127.0.0.1:{port}"\n').start()
    bundles = [gateway.add_device("kept"), gateway.add_device("gone")]
    gateway.verb("ca", "rotate")
    bundles += [gateway.add_device("kept-too"), gateway.add_device("gone-too")]
    ca = stage.folder / "ca.pem"
    ca.write_text(gateway.verb("ca", "export"))
    names = ("root-1", "issuing-1", "issuing-2")
    files = [gateway.data_dir / "crl" / f"{name}.pem" for name in names]
    wait_for("the lists of three CAs", 10, lambda: all(file.is_file() for file in files))

    def judge(bundle: Bundle) -> str:
        lists = stage.folder / "lists.pem"
        lists.write_text("".join(file.read_text() for file in files))
        argv = ("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-crl_check_all", "-CRLfile", str(lists),
                "-CAfile", str(ca), str(bundle.cert))
        done = command(argv)
        return "good" if done.returncode == 0 else done.stdout + done.stderr

    for bundle in bundles:
        expect(judge(bundle) == "good", f"{bundle.device}: {judge(bundle)}")
    gateway.verb("device", "revoke", "gone")
    gateway.verb("device", "revoke", "gone-too")
    for bundle in bundles:
        said = judge(bundle)
        wanted = "revoked" if bundle.device.startswith("gone") else "good"
        expect(wanted in said, f"{bundle.device}: {said}")
    token = gateway.verb("token", "add", "lists", "--scope", "read").split()[-1]
    for name in names:
        on_disk = (gateway.data_dir / "crl" / f"{name}.crl").read_bytes()
        # The enrolment port asks for no token, and doesn't look at one.
        for url in (f"https://127.0.0.1:{port}", f"http://127.0.0.1:{gateway.admin_port}"):
            got = stage.folder / "fetched.crl"
            bearer = ["-H", f"Authorization: Bearer {token}"]
            done = command(["curl", "-sSf", *bearer, "--cacert", str(ca), "-o", str(got), f"{url}/crl/{name}.crl"])
            expect(done.returncode == 0 and got.read_bytes() == on_disk, f"{url}/crl/{name}.crl: {done.stderr}")
    missing = command(["curl", "-sSf", "--cacert", str(ca), f"https://127.0.0.1:{port}/crl/../ca/root-1.key", "--path-as-is"])
    expect(missing.returncode != 0, "a file that is no list was served")
    expect(gateway.stop() == 0, "the gateway did not stop in order")
    gateway.verb("device", "revoke", "kept")
    expect("revoked" in judge(bundles[0]), "the stopped gateway left its lists as they were")


def by_token_and_by_itself(stage: Stage) -> None:
    """A token gives one certificate; with it the device connects and renews; everything else is refused and audited."""
    port = free_port()
    gateway = Gateway(stage, f'[enrolment]\nlisten = "127.0.0.1:{port}"\n').start()
    device = Device(stage, gateway, port)

    status, answer = device.ask("cacerts")
    expect(status == 200, f"cacerts answered {status}")
    bundle = PEM.findall(device.certificates("cacerts", answer).read_text())
    expect(sorted(bundle) == sorted(PEM.findall(device.ca.read_text())), "cacerts and `ca export` differ")

    token = gateway.verb("device", "token", ID).split()[-1]
    said = json.loads(gateway.verb("device", "token", "other", "--role", "app", "--json"))
    expect(said["role"] == "app", f"`device token --json` says {said}")
    key = device.key("first")
    for user, status in ((None, 401), (f"{ID}:{'x' * 32}", 401), (f"{ID}:{said['token']}", 401), (f"nobody:{token}", 401)):
        got, words = device.post("simpleenroll", "first", *(() if user is None else ("-u", user)))
        expect(got == status, f"`{user}` was answered {got}: {words}")
    (device.folder / "rubbish.b64").write_text("bm90IGEgcmVxdWVzdA==\n")
    expect(device.post("simpleenroll", "rubbish", "-u", f"{ID}:{token}")[0] == 400, "rubbish was not refused")
    (device.folder / "long.b64").write_text("A" * 70_000)
    expect(device.post("simpleenroll", "long", "-u", f"{ID}:{token}")[0] == 413, "70,000 bytes were not refused")

    status, answer = device.post("simpleenroll", "first", "-u", f"{ID}:{token}")
    expect(status == 200, f"a good token was answered {status}: {answer}")
    first = device.certificates("first", answer)
    expect(len(PEM.findall(first.read_text())) == 1, "the answer holds more than the leaf")
    verify("sslclient", device.ca, first, "-untrusted", str(device.ca))
    again, words = device.post("simpleenroll", "first", "-u", f"{ID}:{token}")
    expect(again == 401, f"a used token was answered {again}: {words}")
    for words in (("device_enrolled", ID), ("enrolment_refused", ID, "used"), ("enrolment_refused", "request is longer"),
                  ("token_made", ID)):
        wait_for(f"an audit line with {words}", 5, lambda: audited(gateway, *words))

    leaf = gateway.leaf(Bundle(ID, device.ca, first, key)).connect()
    expect(str(leaf.telemetry("1")) == "Success", "the enrolled device could not publish")

    second_key = device.key("second")
    expect(device.post("simplereenroll", "second")[0] == 403, "a renewal without a certificate was not refused")
    mine = ("--cert", str(first), "--key", str(key))
    status, answer = device.post("simplereenroll", "second", *mine)
    expect(status == 200, f"the renewal was answered {status}: {answer}")
    second = device.certificates("second", answer)
    expect(device.post("simplereenroll", "second", *mine)[0] == 429, "a second early renewal was not refused")
    renewed = gateway.leaf(Bundle(ID, device.ca, second, second_key)).connect()
    expect(str(renewed.telemetry("2")) == "Success", "the renewed device could not publish")
    wait_for("the audit line of the renewal", 5, lambda: audited(gateway, "device_renewed", ID))
    wait_for("the old certificate marked as replaced", 5, lambda: any(
        record["superseded"] for record in json.loads(gateway.verb("device", "show", ID, "--json"))["certificates"]))
    shown = gateway.verb("device", "show", ID)
    expect("replaced, accepted until" in shown, f"`device show` says {shown}")

    gateway.verb("device", "revoke", ID)
    mine = ("--cert", str(second), "--key", str(second_key))
    expect(device.post("simplereenroll", "second", *mine)[0] == 403, "a revoked device could renew")
    back = gateway.verb("device", "token", ID).split()[-1]
    status, answer = device.post("simpleenroll", "second", "-u", f"{ID}:{back}")
    expect(status == 200, f"the token of a device that is taken back was answered {status}: {answer}")
    for secret in (token, back, said["token"]):
        expect(secret not in gateway.log_text() + gateway.verb("audit"), "a token stands in the log")
