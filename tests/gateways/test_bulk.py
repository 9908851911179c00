"""What is too much to be kept in full is delivered exactly, declared, and has its digest; a terminal is kept."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from bastion.adapters.policy import CedarPolicies
from bastion.core.recording import Code, Entry, Lines
from bastion.core.session import Session
from tests.world import POLICY, WEB_STAGING, World, person, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = person("ada")
DIRECT = f"deploy@{WEB_STAGING}@bastion"
FULL_UNTIL = 2**20
CONTENT = random.Random(7).randbytes(5 * FULL_UNTIL + 321)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bastion(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("bulk")) as running:
        targets: Any = running.catalogue.targets
        targets[WEB_STAGING] = replace(targets[WEB_STAGING], full_until=FULL_UNTIL)
        await running.grant(ADA)
        yield running


async def last_session(bastion: World) -> Session:
    return max(await bastion.store.sessions(), key=lambda session: session.started_at)


async def recorded(bastion: World) -> list[Entry]:
    """What the transcript of the newest session has."""
    reader = Lines()
    lines = (await bastion.transcript(await last_session(bastion))).splitlines()
    return [entry for line in lines[1:] if (entry := reader.read(line)) is not None]


def kept(entries: list[Entry], code: Code) -> bytes:
    return b"".join(entry.data for entry in entries if entry.code is code)


def said(entries: list[Entry]) -> list[str]:
    return [entry.data.decode() for entry in entries if entry.code is Code.MARKER]


async def test_bulk_both_ways_has_its_beginning_and_its_digest(bastion: World) -> None:
    ran = await bastion.ssh(await bastion.certify(ADA), DIRECT, "cat", stdin=CONTENT)
    assert (ran.status, ran.out) == (0, CONTENT)
    entries = await recorded(bastion)
    for code, stream in ((Code.INPUT, "input"), (Code.OUTPUT, "output")):
        beginning = kept(entries, code)
        assert 0 < len(beginning) <= FULL_UNTIL
        assert CONTENT.startswith(beginning)
        assert f"{stream}: from byte {len(beginning)} on only its size and SHA-256 are kept" in said(entries)
        assert f"{stream}: {len(CONTENT)} bytes, sha256 {DIGEST}" in said(entries)


async def test_standard_error_is_a_stream_of_its_own(bastion: World) -> None:
    ran = await bastion.ssh(await bastion.certify(ADA), DIRECT, "cat >&2; echo done", stdin=CONTENT)
    assert len(ran.err) > FULL_UNTIL  # it is not text, and comes here as if it were
    entries = await recorded(bastion)
    assert kept(entries, Code.OUTPUT) == b"done\n"
    assert f"error output: {len(CONTENT)} bytes, sha256 {DIGEST}" in said(entries)


async def test_a_file_that_is_sent_as_output_has_the_digest_of_what_went_over(bastion: World) -> None:
    """Files by sftp and scp have lines of their own."""
    (bastion.staging.home("deploy") / "big").write_bytes(CONTENT)
    ran = await bastion.ssh(await bastion.certify(ADA), DIRECT, "cat big")
    assert (ran.status, ran.out) == (0, CONTENT)
    assert f"output: {len(CONTENT)} bytes, sha256 {hashlib.sha256(CONTENT).hexdigest()}" in said(
        await recorded(bastion)
    )


async def test_what_a_terminal_shows_is_kept_however_much_it_is(bastion: World) -> None:
    command = "stty -opost; head -c 3000000 /dev/zero; exit 3"
    ran = await bastion.ssh(await bastion.certify(ADA), "-tt", "-o", "SetEnv=TERM=xterm", DIRECT, command)
    assert (ran.status, ran.out) == (3, bytes(3_000_000))
    entries = await recorded(bastion)
    assert kept(entries, Code.OUTPUT) == ran.out
    assert not [entry for entry in entries if entry.code is Code.DIGEST]


async def test_a_target_of_which_everything_is_wanted_is_kept_in_full(bastion: World) -> None:
    targets: Any = bastion.catalogue.targets
    before = targets[WEB_STAGING]
    targets[WEB_STAGING] = replace(before, full_until=None)
    try:
        ran = await bastion.ssh(await bastion.certify(ADA), DIRECT, "cat", stdin=CONTENT)
    finally:
        targets[WEB_STAGING] = before
    assert ran.out == CONTENT
    entries = await recorded(bastion)
    assert kept(entries, Code.OUTPUT) == kept(entries, Code.INPUT) == CONTENT


async def test_what_a_policy_wants_in_full_is_kept_so(bastion: World) -> None:
    wanted = '@id("keep") @record("everything") permit (principal, action == Action::"ssh:exec", resource);'
    bastion.policies.replace(CedarPolicies(POLICY + wanted, bastion.catalogue))
    try:
        ran = await bastion.ssh(await bastion.certify(ADA), DIRECT, "cat", stdin=CONTENT)
    finally:
        bastion.policies.replace(CedarPolicies(POLICY, bastion.catalogue))
    assert ran.out == CONTENT
    entries = await recorded(bastion)
    assert kept(entries, Code.OUTPUT) == kept(entries, Code.INPUT) == CONTENT
