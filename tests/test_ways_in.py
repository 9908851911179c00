"""Every way in, and every outcome: real clients, the certified provider, a whole bastion with Redis, over the wire."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from bastion.core.identity import IdentityId
from tests.plain import PROGRAMS, Client, program
from tests.services.chromium import chromium, door_from, proxy_from
from tests.services.redis import running_redis
from tests.whole import TARGET, Whole, whole
from tests.world import OUTSIDE

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOGIN = f"deploy@{TARGET}"
NO_PLACE = "Nothing here can be reached from where you are"
NO_GRANT = "has no live grant on web-1.staging.eu"


@dataclass
class Stage:
    """A bastion, a browser program, and how long ago things were begun."""

    bastion: Whole
    chromium: Browser
    homes: int = 0
    begun: dict[str, Any] = field(default_factory=dict)
    """Of each way what was begun more than an hour ago."""

    @asynccontextmanager
    async def person(self, **how: Any) -> AsyncIterator[Page]:
        """A browser with cookies of its own."""
        context: BrowserContext = await self.chromium.new_context(**how)
        try:
            yield await context.new_page()
        finally:
            await context.close()

    async def log_in(self, page: Page, url: str, account: str) -> None:
        """Open ``url`` and be ``account`` at the provider that it leads to."""
        await page.goto(url)
        await self.be(page, account)

    async def be(self, page: Page, account: str) -> None:
        """Be ``account`` on each page of the provider: it asks who, and whether that is all right (offline_access)."""
        while "/interaction/" in (asked := page.url):
            await page.get_by_role("button", name=account, exact=True).click()
            await page.wait_for_url(lambda url: url != asked)

    async def confirm(self, code: str, account: str) -> None:
        """What ``account`` does about a terminal that shows ``code``."""
        async with self.person() as page:
            await self.log_in(page, f"{self.bastion.url}/device/{code}", account)
            await page.get_by_role("button", name="Approve").click()
            await expect(page.get_by_role("heading", name="Approved")).to_be_visible()

    def command(self, *words: str, home: Path | None = None) -> tuple[Client, Path]:
        """Our own command line, on somebody's machine."""
        if home is None:
            self.homes += 1
            home = self.bastion.folder / f"home-{self.homes}"
            home.mkdir()
        run = ["env", f"HOME={home}", "BROWSER=true", sys.executable, "-m", "bastion", *words]
        return Client(run, home), home


class Way(Protocol):
    """One way in."""

    async def succeeds(self, stage: Stage) -> None: ...
    async def wrong_identity(self, stage: Stage) -> None: ...
    async def expired(self, stage: Stage) -> None: ...
    async def outside(self, stage: Stage) -> None: ...
    async def begin(self, stage: Stage, stack: AsyncExitStack) -> Any:
        """What is an hour old when `expired` looks at it."""


async def ends(client: Client, *, well: bool, text: str) -> None:
    """That the program ends so, having shown ``text`` in whatever lines and frames."""
    status = await client.status()
    said = " ".join(re.sub(r"[|>]? *\r?\n[|>]? ?", " ", client.seen.decode()).split())
    assert ((status == 0), text in said) == (well, True), (status, client.seen)


@dataclass(frozen=True)
class Plain:
    """An SSH program that knows nothing of us, and a code in Chromium."""

    name: str

    def start(self, stage: Stage, bind: str = "127.0.0.1") -> Client:
        return program(self.name, stage.bastion, "echo reached", user=LOGIN, bind=bind)

    async def succeeds(self, stage: Stage) -> None:
        async with self.start(stage) as client:
            await stage.confirm(await client.code(), "alice")
            await ends(client, well=True, text="reached")

    async def wrong_identity(self, stage: Stage) -> None:
        async with self.start(stage) as client:
            await stage.confirm(await client.code(), "bob")
            await ends(client, well=False, text=f"bob {NO_GRANT}")

    async def outside(self, stage: Stage) -> None:
        async with self.start(stage, OUTSIDE) as client:
            await ends(client, well=False, text=NO_PLACE)
            assert b"/device/" not in client.seen

    async def begin(self, stage: Stage, stack: AsyncExitStack) -> Client:
        client = await stack.enter_async_context(self.start(stage))
        await client.code()
        return client

    async def expired(self, stage: Stage) -> None:
        await ends(stage.begun[self.name], well=False, text="Nobody confirmed this login within five minutes")


@dataclass(frozen=True)
class InBrowser:
    """Chromium, and the bastion's own pages."""

    name: str = "browser"

    async def succeeds(self, stage: Stage) -> None:
        async with stage.person() as page:
            await stage.log_in(page, f"{stage.bastion.url}/login", "alice")
            await expect(page.get_by_text("You are logged in as alice@corp.example")).to_be_visible()

    async def wrong_identity(self, stage: Stage) -> None:
        """The page that Alice was shown is answered after Bob has logged in in the same browser."""
        _, begun = await stage.bastion.call("POST", "/api/v1/device", json={"client": "a test"})
        async with stage.person() as page:
            await stage.log_in(page, f"{stage.bastion.url}/device/{begun['user_code']}", "alice")
            other = await page.context.new_page()
            await page.context.clear_cookies()
            await stage.log_in(other, f"{stage.bastion.url}/login", "bob")
            await page.get_by_role("button", name="Approve").click()
            await expect(page.get_by_text("You are logged in as somebody else")).to_be_visible()

    async def outside(self, stage: Stage) -> None:
        async with proxy_from(OUTSIDE) as proxy, stage.person(proxy={"server": proxy}) as page:
            await page.goto(f"{stage.bastion.url}/login")
            await expect(page.get_by_text(NO_PLACE)).to_be_visible()

    async def begin(self, stage: Stage, stack: AsyncExitStack) -> Page:
        page = await stack.enter_async_context(stage.person())
        await page.goto(f"{stage.bastion.url}/login")
        return page

    async def expired(self, stage: Stage) -> None:
        page: Page = stage.begun[self.name]
        await stage.be(page, "alice")
        await expect(page.get_by_text("began more than ten minutes ago")).to_be_visible()


class CommandLine:
    """`bastion`, which gets a certificate for OpenSSH once it is logged in."""

    name: str

    async def logged_in(self, stage: Stage, account: str) -> Path:
        """Somebody's machine after a login; its home."""
        raise NotImplementedError

    async def certify(self, stage: Stage, home: Path, *, well: bool, text: str) -> None:
        client, _ = stage.command("ssh", "--no-agent", LOGIN, "echo reached", home=home)
        async with client:
            await ends(client, well=well, text=text)

    async def succeeds(self, stage: Stage) -> None:
        await self.certify(stage, await self.logged_in(stage, "alice"), well=True, text="reached")

    async def wrong_identity(self, stage: Stage) -> None:
        await self.certify(stage, await self.logged_in(stage, "bob"), well=False, text=f"bob {NO_GRANT}")

    def from_outside(self, stage: Stage, url: str) -> Client:
        raise NotImplementedError

    async def outside(self, stage: Stage) -> None:
        port = urlsplit(stage.bastion.url).port
        assert port is not None
        async with door_from(OUTSIDE, port) as door, self.from_outside(stage, f"http://127.0.0.1:{door}") as client:
            await ends(client, well=False, text=NO_PLACE)


class ByLogin(CommandLine):
    """`bastion login`, with Chromium on the same machine."""

    name = "bastion login"

    async def logged_in(self, stage: Stage, account: str) -> Path:
        client, home = stage.command("login", stage.bastion.url)
        async with client, stage.person() as page:
            await stage.log_in(page, await self._address(client), account)
            await page.get_by_role("button", name="Yes, log the command line in").click()
            await ends(client, well=True, text="You are logged in as")
        return home

    async def _address(self, client: Client) -> str:
        await client.sees("state=")
        found = re.search(rb"(http://\S+/login/cli\?\S+)", client.seen)
        assert found is not None
        return found[1].decode()

    async def outside(self, stage: Stage) -> None:
        port = urlsplit(stage.bastion.url).port
        assert port is not None
        async with door_from(OUTSIDE, port) as door, stage.person() as page:
            client, _ = stage.command("login", f"http://127.0.0.1:{door}")
            async with client:
                await page.goto(await self._address(client))
                await expect(page.get_by_text(NO_PLACE)).to_be_visible()
                assert client.process.returncode is None

    async def begin(self, stage: Stage, stack: AsyncExitStack) -> Path:
        return await self.logged_in(stage, "alice")

    async def expired(self, stage: Stage) -> None:
        await self.certify(stage, stage.begun[self.name], well=False, text="Your login is over")


class ByDevice(CommandLine):
    """`bastion login --device`, with Chromium elsewhere."""

    name = "device"

    async def logged_in(self, stage: Stage, account: str) -> Path:
        client, home = stage.command("login", "--device", stage.bastion.url)
        async with client:
            await stage.confirm(await client.code(), account)
            await ends(client, well=True, text="You are logged in as")
        return home

    def from_outside(self, stage: Stage, url: str) -> Client:
        return stage.command("login", "--device", url)[0]

    async def begin(self, stage: Stage, stack: AsyncExitStack) -> Client:
        client, _ = stage.command("login", "--device", stage.bastion.url)
        await stack.enter_async_context(client)
        await client.code()
        return client

    async def expired(self, stage: Stage) -> None:
        await ends(stage.begun[self.name], well=False, text="Nobody confirmed this login within five minutes")


class ByToken(CommandLine):
    """A CI job with the token that its platform gave it."""

    name = "workload token"

    async def _file(self, stage: Stage, **changed: str) -> Path:
        stage.homes += 1
        file = stage.bastion.folder / f"token-{stage.homes}"
        file.write_text(await stage.bastion.provider.workload_token(**changed))
        return file

    def _start(self, stage: Stage, file: Path, url: str) -> tuple[Client, Path]:
        return stage.command("login", "--token-file", str(file), url)

    async def logged_in(self, stage: Stage, account: str) -> Path:
        client, home = self._start(stage, await self._file(stage), stage.bastion.url)
        async with client:
            await ends(client, well=True, text="You are logged in as ci")
        return home

    async def wrong_identity(self, stage: Stage) -> None:
        client, _ = self._start(stage, await self._file(stage, client_id="another-ci"), stage.bastion.url)
        async with client:
            await ends(client, well=False, text="No workload rule lets in another-ci")

    async def outside(self, stage: Stage) -> None:
        port, file = urlsplit(stage.bastion.url).port, await self._file(stage)
        assert port is not None
        async with door_from(OUTSIDE, port) as door:
            client, _ = self._start(stage, file, f"http://127.0.0.1:{door}")
            async with client:
                await ends(client, well=False, text=NO_PLACE)

    async def begin(self, stage: Stage, stack: AsyncExitStack) -> Path:
        return await self._file(stage)

    async def expired(self, stage: Stage) -> None:
        client, _ = self._start(stage, stage.begun[self.name], stage.bastion.url)
        async with client:
            await ends(client, well=False, text="could not be verified")


WAYS: Sequence[Way] = (*map(Plain, PROGRAMS), InBrowser(), ByLogin(), ByDevice(), ByToken())


def named(way: Any) -> str:
    return str(way.name)


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    with running_redis() as redis:
        async with whole(folder, coordination=redis) as bastion, chromium() as browser:
            for identity in ("alice", "ci"):
                await bastion.grant(IdentityId(bastion.provider.issuer, identity))
            yield Stage(bastion, browser)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def now(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("now")) as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def later(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One on which everything was begun, and then an hour passed."""
    async with staged(tmp_path_factory.mktemp("later")) as stage, AsyncExitStack() as stack:
        for way in WAYS:
            stage.begun[named(way)] = await way.begin(stage, stack)
        stage.bastion.clock.skew = timedelta(hours=1, seconds=1)
        yield stage


@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_it_succeeds(now: Stage, way: Way) -> None:
    await way.succeeds(now)


@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_another_identity_does_not_get_in(now: Stage, way: Way) -> None:
    await way.wrong_identity(now)


@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_from_outside_the_fence_nobody_gets_in(now: Stage, way: Way) -> None:
    await way.outside(now)


@pytest.mark.parametrize("way", WAYS, ids=named)
async def test_what_has_expired_lets_nobody_in(later: Stage, way: Way) -> None:
    await way.expired(later)


async def test_a_login_leads_on_to_the_page_of_a_grant(now: Stage) -> None:
    [grant, *_] = await now.bastion.store.grants_of(now.bastion.alice, now.bastion.clock.now())
    async with now.person() as page:
        await now.log_in(page, f"{now.bastion.url}/grants/{grant.id}", "alice")
        await expect(page.get_by_role("heading", name=f"Grant {grant.id}")).to_be_visible()
