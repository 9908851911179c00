"""The real command in its own process, against a real console, with a browser that needs no window."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bastion.adapters.clock import SystemClock
from bastion.cli import exits, saved
from bastion.cli.client import Client, check_url
from bastion.cli.loopback import Loopback
from bastion.console.app import serve
from bastion.core.audit import EventFilter, Kind
from bastion.demo.browser import Page, ScriptedBrowser
from tests.services.identity import Console, running_console
from tests.services.ports import free_port


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Console]:
    async with running_console(tmp_path, SystemClock()) as console:
        yield console


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Somebody's own machine: a configuration folder, and a browser that logs in as ``subject``."""

    folder: Path
    subject: str = "alice"

    @property
    def file(self) -> Path:
        return self.folder / "bastion" / "login.json"

    def environment(self) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        browser = f"{shlex.quote(sys.executable)} -m bastion.demo.browser {self.subject} %s"
        return keep | {"XDG_CONFIG_HOME": str(self.folder), "BROWSER": browser, "TZ": "UTC"}

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bastion", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment() | environment,
        )

    async def run(self, *arguments: str, **environment: str) -> Done:
        process = await self.start(*arguments, **environment)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Done(process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "config"
    folder.mkdir()
    return Machine(folder)


async def test_somebody_logs_in_looks_who_they_are_and_logs_out(console: Console, machine: Machine) -> None:
    done = await machine.run("login", console.url)
    assert done.status == exits.OK, done.err
    assert "You are logged in as alice@corp.example until" in done.out
    assert stat.S_IMODE(machine.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(machine.file.parent.stat().st_mode) == 0o700
    (event,) = await console.store.events(EventFilter(kind="login:*"))
    assert (event.kind, event.details["for"]) == (Kind.LOGIN_SUCCEEDED, "command line")

    done = await machine.run("whoami", "--json")
    assert json.loads(done.out)["identity"]["groups"] == ["contractors"]
    done = await machine.run("whoami")
    assert "alice@corp.example" in done.out
    assert "127.0.0.1 (DE)" in done.out

    token = json.loads(machine.file.read_text())["token"]
    done = await machine.run("logout")
    assert (done.status, done.out) == (exits.OK, "You are logged out.\n")
    assert token not in machine.file.read_text()
    saved_again = json.loads(machine.file.read_text()) | {
        "token": token,
        "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    machine.file.write_text(json.dumps(saved_again))  # somebody kept a copy
    done = await machine.run("whoami")
    assert (done.status, "logged out" in done.err) == (exits.NOT_LOGGED_IN, True)


async def test_without_a_browser_the_address_is_printed_and_the_url_is_remembered(
    console: Console, machine: Machine
) -> None:
    machine.file.parent.mkdir()
    machine.file.write_text(json.dumps({"url": console.url}))
    machine.file.chmod(0o600)
    process = await machine.start("login", "--no-browser", "--json", BROWSER="false")
    assert process.stderr is not None
    address = ""
    while not address:
        line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
        assert line, "it ended without an address"
        address = line.strip() if line.strip().startswith("http") else ""
    page: Page = await asyncio.to_thread(ScriptedBrowser().log_in, address, "bob")
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert page.url == f"{console.url}/login/closed"
    assert "close this window" in page.text
    assert json.loads(out)["identity"]["display"] == "bob@corp.example"
    assert process.returncode == exits.OK


async def test_a_login_that_the_bastion_refuses_says_why(console: Console, machine: Machine) -> None:
    process = await machine.start("login", console.url, "--no-browser")
    assert process.stderr is not None
    text = ""
    while "/login/cli?" not in text:
        text += (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
    query = parse_qs(urlsplit(re.findall(r"http\S+", text)[0]).query)
    port, state = query["port"][0], query["state"][0]
    callback = f"http://127.0.0.1:{port}/callback"
    for wrong in (callback, f"{callback}?code=x&state=other", f"http://127.0.0.1:{port}/?code=x&state={state}"):
        assert (await asyncio.to_thread(ScriptedBrowser().get, wrong)).status == 404
    page = await asyncio.to_thread(ScriptedBrowser().get, f"{callback}?code={'c' * 43}&state={state}")
    assert (page.status, page.text) == (400, "The login failed; your terminal says why.")
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == exits.REFUSED
    assert "This login code was used already" in err.decode()
    assert not machine.file.exists()


NOT_LOGGED_IN = {
    "nothing": None,
    "no token": {"url": "http://127.0.0.1:1"},
    "over": {"url": "http://127.0.0.1:1", "token": "t", "expires_at": "2020-01-01T00:00:00+00:00"},
    "without an end": {"url": "http://127.0.0.1:1", "token": "t"},
    "not an object": ["x"],
}


@pytest.mark.parametrize("kept", NOT_LOGGED_IN.values(), ids=NOT_LOGGED_IN)
def test_whoever_is_not_logged_in_is_told_how(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kept: object
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(machine.folder))
    if kept is not None:
        machine.file.parent.mkdir()
        machine.file.write_text(json.dumps(kept))
        machine.file.chmod(0o600)
    with pytest.raises(typer.Exit) as caught:
        Client.from_login()
    assert caught.value.exit_code == exits.NOT_LOGGED_IN
    assert "Run: bastion login" in capsys.readouterr().err


def test_a_token_that_others_could_read_is_not_used(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(machine.folder))
    saved.save(saved.SavedLogin("http://127.0.0.1:1", "token", datetime.now(UTC) + timedelta(hours=1)))
    assert saved.load() is not None
    machine.file.chmod(0o644)
    assert saved.load() is None


def test_a_failed_save_leaves_what_was_there(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(machine.folder))
    saved.save(saved.SavedLogin("http://127.0.0.1:1"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        saved.save(saved.SavedLogin("http://127.0.0.1:2"))
    known = saved.load()
    assert known is not None
    assert known.url == "http://127.0.0.1:1"


async def test_a_bastion_that_does_not_answer_is_unreachable(machine: Machine) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    machine.file.parent.mkdir()
    kept = {"url": url, "token": "t", "expires_at": "2999-01-01T00:00:00+00:00"}
    machine.file.write_text(json.dumps(kept))
    machine.file.chmod(0o600)
    done = await machine.run("whoami")
    assert (done.status, done.out) == (exits.UNREACHABLE, "")
    assert "does not answer" in done.err
    assert "Traceback" not in done.err
    done = await machine.run("logout")
    assert done.status == exits.UNREACHABLE
    assert json.loads(machine.file.read_text())["token"] is None


BAD_URLS = [
    "http://bastion.example.com",
    "bastion.example.com",
    "ftp://a",
    "https://",
    "https://a/path",
    "https://a?b",
    "https://a#b",
    "https://u:p@a",
    "https://a:99999",
    "http://127.0.0.1.evil.example",
    "http://[::1",
    "",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_token_is_sent_only_where_nobody_listens_in(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        check_url(url)
    assert caught.value.exit_code == exits.USAGE
    assert "https://bastion.example.com" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://bastion.example.com/", "https://bastion.example.com"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_url_is_kept_without_its_slash(url: str, origin: str) -> None:
    assert check_url(url) == origin


# ---------------------------------------------------------------------------------------------------------- client


async def hostile(request: web.Request) -> web.StreamResponse:
    what = request.match_info["what"]
    if what == "redirect":
        return web.Response(status=302, headers={"Location": "/secret"})
    if what == "error":
        return web.json_response({"error": "No\x1b[2J way\nfor you."}, status=403)
    if what == "html":
        return web.Response(text="<html>", status=int(request.query["status"]))
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"n": 1}\n{"n": ')
    await response.write(b"2}\r\nlast")
    return response


@pytest.fixture
async def server() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{what}", hostile)
    runner = await serve(app, "127.0.0.1", 0, None)
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/redirect", "status 302"),
        ("/error", "No\N{REPLACEMENT CHARACTER}[2J way\nfor you.\n"),
        ("/html?status=502", "status 502"),
    ],
)
async def test_an_error_of_the_bastion_is_one_harmless_sentence(
    server: str, capsys: pytest.CaptureFixture[str], path: str, said: str
) -> None:
    with pytest.raises(typer.Exit) as caught:
        await asyncio.to_thread(Client(server, "token").call, "GET", path)
    assert caught.value.exit_code == exits.REFUSED
    assert said in capsys.readouterr().err


async def test_an_answer_that_is_not_json_is_no_answer(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        await asyncio.to_thread(Client(server).call, "GET", "/html", None, {"status": "200"})
    assert caught.value.exit_code == exits.UNREACHABLE
    assert "is this the URL of a bastion?" in capsys.readouterr().err


async def test_a_stream_comes_line_by_line(server: str) -> None:
    lines = await asyncio.to_thread(lambda: list(Client(server).stream("/stream")))
    assert lines == [b'{"n": 1}', b'{"n": 2}', b"last"]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bastion")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
    )
    file, secret = tmp_path / "ca.pem", tmp_path / "tls.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file, secret)
    return file, context


async def test_tls_is_verified_and_a_private_ca_can_be_named(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, context = certificate
    app = web.Application()
    app.router.add_get("/x", _answer)
    runner = await serve(app, "127.0.0.1", 0, context)
    client = Client(f"https://127.0.0.1:{runner.addresses[0][1]}", "token")
    try:
        with pytest.raises(typer.Exit) as caught:
            await asyncio.to_thread(client.call, "GET", "/x")
        assert caught.value.exit_code == exits.UNREACHABLE
        assert "certificate verify failed" in capsys.readouterr().err
        monkeypatch.setenv("BASTION_CA_FILE", str(file))
        assert await asyncio.to_thread(client.call, "GET", "/x") == {}
        monkeypatch.setenv("BASTION_CA_FILE", str(file) + ".missing")
        with pytest.raises(typer.Exit) as caught:
            await asyncio.to_thread(client.call, "GET", "/x")
        assert caught.value.exit_code == exits.USAGE
    finally:
        await runner.cleanup()


async def _answer(request: web.Request) -> web.Response:
    return web.json_response({})


# --------------------------------------------------------------------------------------------------------- loopback


def test_the_loopback_listens_on_the_loopback_alone_and_stops() -> None:
    with Loopback("state") as loopback:
        assert loopback._server.server_address == ("127.0.0.1", loopback.port)
    with pytest.raises(OSError, match="refused"):
        ScriptedBrowser().get(f"http://127.0.0.1:{loopback.port}/callback")


def test_a_connection_that_never_asks_keeps_nobody_waiting() -> None:
    import socket

    with Loopback("state") as loopback:
        idle = socket.create_connection(("127.0.0.1", loopback.port))
        browser = ScriptedBrowser()
        pages: list[Page] = []
        url = f"http://127.0.0.1:{loopback.port}/callback?code=c&state=state"
        thread = Thread(target=lambda: pages.append(browser.get(url, follow=False)))
        thread.start()
        assert loopback.wait(30) == "c"
        loopback.answer("http://127.0.0.1:1/closed")
        thread.join(30)
    assert [page.headers["location"] for page in pages] == ["http://127.0.0.1:1/closed"]
    idle.close()


def test_the_help_of_the_command_line_imports_nothing_heavy() -> None:
    import subprocess

    script = "import bastion.cli.login, sys; print([m for m in ('aiohttp', 'sqlalchemy', 'ssl') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
