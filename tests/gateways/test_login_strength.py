"""A certificate is as strong as the login that got it: what somebody proves later, elsewhere, makes it no stronger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from bastion.adapters.policy import CedarPolicies
from bastion.core.audit import Kind
from bastion.core.errors import Refused
from bastion.core.identity import Identity
from bastion.core.menu import Ask, Offer
from bastion.core.remedy import Remedy
from bastion.core.session import End
from tests.gateways.test_ssh_ends import live
from tests.gateways.test_ssh_logout import open_connection, run
from tests.world import POLICY, WEB_STAGING, World, person, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEMANDING = (
    POLICY
    + """
@id("strong") forbid (principal, action in Action::"connect", resource)
unless { action == Action::"ssh:shell" || resource.login == "admin" || context.mfa };
@id("recent") forbid (principal, action == Action::"ssh:exec", resource)
when { resource.login == "admin" && context.authenticated_age > duration("5m") };
@id("ask") @auto("true") @mfa("required")
permit (principal, action == Action::"request", resource);
"""
)
"""Anybody gets a certificate, for shells; what else it opens takes a second factor, or as admin a login made lately."""

SHELLS = '@id("strong") forbid (principal, action in Action::"connect", resource) unless { context.mfa };'
SMALL = """
@id("small") @max_file_size("1KiB") permit (principal, action == Action::"ssh:sftp_write", resource)
unless { context.mfa };
"""

DIRECT, JUMP = f"deploy@{WEB_STAGING}@bastion", f"deploy@{WEB_STAGING}"
_NUMBERS = count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bastion(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("strength"), policy=DEMANDING) as running:
        yield running


class Somebody:
    """One person with a grant, who has logged in with a password ten minutes ago, and with a second factor just now."""

    def __init__(self, bastion: World) -> None:
        now = bastion.clock.now()
        known = person(f"somebody-{next(_NUMBERS)}")
        self._bastion = bastion
        self.weak = replace(known, authenticated_at=now - timedelta(minutes=10), amr=frozenset({"pwd"}))
        self.strong = replace(known, authenticated_at=now, amr=frozenset({"pwd", "mfa"}))

    async def granted(self) -> Somebody:
        await self._bastion.grant(self.weak, logins=frozenset({"deploy", "admin"}))
        return self

    async def log_in(self, identity: Identity) -> None:
        """As `bastion.access.login` leaves it: this is the latest, whoever's certificate is in use."""
        async with self._bastion.store.transaction() as transaction:
            await transaction.save_identity(identity, self._bastion.clock.now())

    async def certify(self, identity: Identity) -> Path:
        """The key of a certificate that this login got."""
        await self.log_in(identity)
        key = self._bastion.key(f"{identity.id.subject}-{len(identity.amr)}")
        public, place = Path(f"{key}.pub").read_text(), self._bastion.place("127.0.0.1")
        line, _ = await self._bastion.certification.issue(identity, place, public, WEB_STAGING)
        Path(f"{key}-cert.pub").write_text(line)
        return key


@pytest_asyncio.fixture(loop_scope="module")
async def somebody(bastion: World) -> Somebody:
    return await Somebody(bastion).granted()


WAYS = {
    "direct": (Remedy.MFA, "ssh", [DIRECT, "true"]),
    "-J": (Remedy.MFA, "ssh", [JUMP, "true"]),
    "sftp": (Remedy.MFA, "sftp", ["-b", "/dev/null", DIRECT]),
    "scp": (Remedy.MFA, "scp", ["-O", f"{DIRECT}:/etc/hostname", "/dev/null"]),
    "-W": (Remedy.MFA, "ssh", ["-W", "localhost:{port}", DIRECT]),
    "too old": (Remedy.FRESH, "ssh", [f"admin@{WEB_STAGING}@bastion", "true"]),
    "-J, too old": (Remedy.FRESH, "ssh", [f"admin@{WEB_STAGING}", "true"]),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_weak_certificate_stays_weak_when_its_owner_logs_in_strongly_elsewhere(
    bastion: World, somebody: Somebody, way: str
) -> None:
    remedy, program, arguments = WAYS[way]
    words = [argument.format(port=bastion.staging.port) for argument in arguments]
    weak = await somebody.certify(somebody.weak)
    strong = await somebody.certify(somebody.strong)
    denied = await bastion.ssh(weak, *words, program=program)
    assert denied.status != 0
    assert remedy.sentence in denied.err
    assert remedy.sentence in (await bastion.events(Kind.ACCESS_DENIED))[-1].reasons
    opened = await bastion.ssh(strong, *words, program=program)
    assert opened.status == 0, opened.err


async def test_a_strong_certificate_stays_strong_when_its_owner_logs_in_weakly_elsewhere(
    bastion: World, somebody: Somebody
) -> None:
    strong = await somebody.certify(somebody.strong)
    await somebody.log_in(somebody.weak)
    assert (await bastion.ssh(strong, DIRECT, "true")).status == 0


async def test_an_open_connection_is_no_stronger_than_the_login_that_got_it(bastion: World, somebody: Somebody) -> None:
    weak = await somebody.certify(somebody.weak)
    async with open_connection(bastion, weak) as reuse:
        await somebody.log_in(somebody.strong)
        status, said = await run(bastion, weak, reuse)
    assert (status, Remedy.MFA.sentence in said.decode()) == (254, True), said


async def test_a_live_session_is_judged_by_its_own_login_when_the_policy_changes(
    bastion: World, somebody: Somebody
) -> None:
    another = await Somebody(bastion).granted()
    weak, strong = await somebody.certify(somebody.weak), await another.certify(another.strong)
    bastion.policies.replace(CedarPolicies(POLICY, bastion.catalogue))
    try:
        async with live(bastion, weak) as doomed, live(bastion, strong) as spared:
            await somebody.log_in(somebody.strong)
            await another.log_in(another.weak)
            bastion.policies.replace(CedarPolicies(POLICY + SHELLS, bastion.catalogue))
            await bastion.supervision.review_all()
            said, _ = await doomed.end()
            assert End.POLICY.sentence in said
            assert spared.process.returncode is None
            assert spared.process.stdout is not None
            assert await asyncio.wait_for(spared.process.stdout.readline(), 20) == b"on\n"
    finally:
        bastion.policies.replace(CedarPolicies(DEMANDING, bastion.catalogue))


async def test_the_limits_of_files_are_those_of_the_login_that_got_the_certificate(
    bastion: World, somebody: Somebody
) -> None:
    strong = await somebody.certify(somebody.strong)
    bastion.policies.replace(CedarPolicies(DEMANDING + SMALL, bastion.catalogue))
    process = await asyncio.create_subprocess_exec(
        "sftp", *bastion.ssh_options(strong), DIRECT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"pwd\n")
        async with asyncio.timeout(20):
            while b"working directory" not in await process.stdout.readline():
                pass
        await somebody.log_in(somebody.weak)
        await bastion.supervision.review_all()
        _, said = await asyncio.wait_for(process.communicate(b"bye\n"), 20)
    finally:
        bastion.policies.replace(CedarPolicies(DEMANDING, bastion.catalogue))
    assert (process.returncode, End.POLICY.sentence in said.decode()) == (0, False), said


async def test_what_a_menu_asks_for_is_asked_by_the_login_that_opened_it(bastion: World, somebody: Somebody) -> None:
    weak = await bastion.certification.issue_for_connection(
        somebody.weak, bastion.place("127.0.0.1").address, WEB_STAGING, "deploy", "connection"
    )
    await somebody.log_in(somebody.strong)
    asked = Ask(Offer(WEB_STAGING, "root", "may be requested", False), "30m", "to look at it")
    with pytest.raises(Refused, match="has to log in with a second factor first"):
        await bastion.offering.ask(weak, bastion.place("127.0.0.1").address, asked)
    strong = replace(weak, strength=somebody.strong.strength)
    assert "is granted" in await bastion.offering.ask(strong, bastion.place("127.0.0.1").address, asked)
