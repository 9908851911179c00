"""Clients without a certificate, and the console in which their people finish the login."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from bastion.access.apitokens import ApiTokens
from bastion.access.confirmation import Confirmation
from bastion.access.handover import Handover
from bastion.access.keeping import Keeping
from bastion.access.login import Issuer, Login
from bastion.access.tokens import Tokens, TokenSigner
from bastion.adapters.keyfile import load_or_create_key
from bastion.adapters.oidc import OidcProvider
from bastion.adapters.seal import FileSeal
from bastion.console import device, login
from bastion.console.app import build, serve
from bastion.console.caller import Callers
from bastion.core.identity import ClaimMapping, Identity, IdentityId
from bastion.demo.browser import Page, ScriptedBrowser
from bastion.demo.provider import Account, DemoProvider, Registration
from bastion.demo.tools import find_tool, tool_environment
from tests.world import WEB_STAGING, World, person, until

PATIENCE = 20.0
"""Seconds for a client program to do the next thing, on a busy machine."""

CODE = re.compile(rb"/device/([B-Z]{4}-[B-Z]{4})")


@dataclass
class Plain:
    """A bastion with a console, and people who can log in there. ``last_question`` is the last page they were asked."""

    bastion: World
    issuer: str
    confirmation: Confirmation
    last_question: str = ""

    def person(self, subject: str) -> Identity:
        """Who ``subject`` is once the provider has said so."""
        known = person(subject)
        return replace(known, id=IdentityId(self.issuer, subject))

    async def browse(
        self, subject: str, code: str, *, answer: str = "approve", typed: str = "", source: str = "127.0.0.1"
    ) -> Page:
        """All that a person does in a browser: log in, read, and press a button."""
        return await asyncio.to_thread(self._browse, subject, code, answer, typed, source)

    def _browse(self, subject: str, code: str, answer: str, typed: str, source: str) -> Page:
        browser = ScriptedBrowser(source=source)
        page = browser.log_in(f"{self.bastion.public_url}/device/{code}", subject)
        if page.status != 200:
            return page
        self.last_question = page.text
        return browser.submit(page, follow=True, answer=answer, typed=typed)


@asynccontextmanager
async def plain_logins(bastion: World) -> AsyncIterator[Plain]:
    """The console of ``bastion`` with a provider of its own, until the block is left."""
    url, parts = bastion.public_url, bastion
    accounts = [Account(name, f"{name}@example.com", ("contractors",), name.title()) for name in ("ada", "bob")]
    provider = DemoProvider(
        client=Registration("bastion", "secret", frozenset({f"{url}/login/callback"})),
        accounts=accounts,
        clock=bastion.clock,
    )
    await provider.start()
    async with aiohttp.ClientSession() as session:
        oidc = OidcProvider(
            issuer=provider.issuer, client_id="bastion", client_secret="secret", scopes=["openid", "email", "groups"],
            session=session, clock=parts.clock,
        )  # fmt: skip
        signer = TokenSigner(key=load_or_create_key(parts.folder / "token"), issuer=url, clock=parts.clock)
        tokens = Tokens(signer=signer, store=parts.store, coordination=parts.coordination, clock=parts.clock)
        logins = Login(
            issuers=[Issuer(oidc, ClaimMapping())], public_url=url, doorstep=parts.doorstep, store=parts.store,
            coordination=parts.coordination, clock=parts.clock, node="test-1",
            keeping=Keeping(seal=FileSeal(parts.folder / "logins")),
        )  # fmt: skip
        handover = Handover(
            doorstep=parts.doorstep, tokens=tokens, store=parts.store, coordination=parts.coordination
        )  # fmt: skip
        confirmation = Confirmation(
            prospects=parts.prospects, throttle=parts.doorstep.throttle, store=parts.store,
            coordination=parts.coordination, catalogue=parts.catalogue, clock=parts.clock, node="test-1",
        )  # fmt: skip
        routes = [
            *login.routes(login=logins, handover=handover),
            *device.routes(confirmation=confirmation, issuers=logins.issuers),
        ]
        api_tokens = ApiTokens(throttle=parts.doorstep.throttle, store=parts.store, clock=parts.clock, node="test-1")
        callers = Callers(tokens=tokens, api_tokens=api_tokens, doorstep=parts.doorstep, public_url=url)
        app = build(routes=routes, callers=callers)
        runner = await serve(app, "127.0.0.1", urlsplit(url).port or 0, None)
        try:
            yield Plain(bastion, provider.issuer, confirmation)
        finally:
            await runner.cleanup()
            await provider.stop()


class Client:
    """A client program on a terminal of its own, as a person has it. ``seen`` is everything it showed."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._arguments = list(arguments)
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "xterm", "LANG": "C.UTF-8"}
        self.seen = b""

    async def __aenter__(self) -> Client:
        self._ours, theirs = pty.openpty()
        self.process = await asyncio.create_subprocess_exec(
            *self._arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=_own_terminal,
            env=self.environment | tool_environment(),
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(self._ours, False)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        os.close(self._ours)

    def _read(self) -> None:
        try:
            self.seen += os.read(self._ours, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._ours)

    @property
    def terminal(self) -> int:
        """Its descriptor, on the side of who sits in front of it."""
        return self._ours

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def code(self) -> str:
        """The code that it shows."""
        await until(lambda: CODE.search(self.seen) or self.process.returncode is not None, PATIENCE)
        found = CODE.search(self.seen)
        assert found is not None, self.seen
        return found[1].decode()

    async def sees(self, text: str) -> None:
        try:
            await until(lambda: text.encode() in self.seen, PATIENCE)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in {self.seen!r}") from None

    async def status(self) -> int:
        """Its exit status, when it has ended and everything it wrote was read."""
        async with asyncio.timeout(PATIENCE):
            status = await self.process.wait()
        self._read()
        return status


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


PROGRAMS = ("openssh", "plink", "dbclient", "paramiko")


class Reachable(Protocol):
    """What client programs need to know of a bastion."""

    @property
    def folder(self) -> Path: ...
    @property
    def port(self) -> int: ...
    @property
    def host_key(self) -> str: ...
    @property
    def host_key_fingerprint(self) -> str: ...


def program(
    name: str, bastion: Reachable, command: str, *, user: str = f"deploy@{WEB_STAGING}", key: Path | None = None,
    bind: str = "127.0.0.1",
) -> Client:  # fmt: skip
    """A client of the kind ``name`` that runs ``command`` at the target, with no certificate."""
    home = Path(tempfile.mkdtemp(dir=bastion.folder))
    (home / ".ssh").mkdir(mode=0o700)
    known = home / ".ssh" / "known_hosts"
    known.write_text(f"[127.0.0.1]:{bastion.port} {bastion.host_key}\n127.0.0.1 {bastion.host_key}\n")
    arguments = {"openssh": _openssh, "plink": _plink, "dbclient": _dbclient, "paramiko": _paramiko}[name](
        bastion, known, user, key, bind
    )
    return Client([*arguments, command], home)


def _openssh(bastion: Reachable, known: Path, user: str, key: Path | None, bind: str) -> list[str]:
    identity = ["-i", str(key), "-o", "IdentitiesOnly=yes"] if key else ["-o", "PubkeyAuthentication=no"]
    return [
        "ssh", "-F", "none", "-p", str(bastion.port), "-b", bind, "-l", user, *identity, "-o", "IdentityAgent=none",
        "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "127.0.0.1",
    ]  # fmt: skip


def _plink(bastion: Reachable, known: Path, user: str, key: Path | None, bind: str) -> list[str]:
    identity = ["-i", str(_converted(key, "ppk", "puttygen", str(key), "-O", "private", "-o"))] if key else []
    script = Path(__file__).parent / "clients" / "from_address.py"
    through = f"{sys.executable} {script} {bind} {bastion.port}"
    return [  # a name, since plink asks no proxy for addresses of this machine
        str(find_tool("plink")), "-ssh", "-no-antispoof", "-l", user, *identity,
        "-hostkey", bastion.host_key_fingerprint, "-proxycmd", through, "bastion.test",
    ]  # fmt: skip


def _dbclient(bastion: Reachable, known: Path, user: str, key: Path | None, bind: str) -> list[str]:
    identity = ["-i", str(_converted(key, "db", "dropbearconvert", "openssh", "dropbear", str(key)))] if key else []
    return [
        str(find_tool("dbclient")), "-p", str(bastion.port), "-b", bind, "-l", user, *identity, "127.0.0.1",
    ]  # fmt: skip


def _converted(key: Path, suffix: str, converter: str, *arguments: str) -> Path:
    """The key as the client wants it: ``converter`` takes ``arguments`` and then where to write."""
    converted = key.with_suffix(f".{suffix}")
    environment = {"PATH": os.environ["PATH"], **tool_environment()}
    subprocess.run([find_tool(converter), *arguments, converted], check=True, capture_output=True, env=environment)
    return converted


def _paramiko(bastion: Reachable, known: Path, user: str, key: Path | None, bind: str) -> list[str]:
    script = Path(__file__).parent / "clients" / "paramiko_client.py"
    return [sys.executable, str(script), str(bastion.port), bind, user, str(known), str(key or "")]
