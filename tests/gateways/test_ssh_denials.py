"""Everything but exactly what was granted is denied, over the wire, each with its own sentence and its own event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from bastion.core.audit import Kind
from bastion.core.errors import Refused
from bastion.core.policy import Action
from tests.world import OUTSIDE, WEB_PRODUCTION, WEB_STAGING, Finished, World, person

ADA, BOB = person("ada"), person("bob")


@dataclass(frozen=True)
class Denial:
    """What the client read, and the newest event."""

    status: int
    said: str
    kind: Kind


async def _try(bastion: World, *arguments: str, bind: str = "127.0.0.1") -> Denial:
    ran: Finished = await bastion.ssh(bastion.key("ada"), *arguments, "true", bind=bind)
    return Denial(ran.status, ran.err, (await bastion.events())[-1].kind)


async def another_identity(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.grant(BOB, WEB_PRODUCTION)
    with pytest.raises(Refused) as refusal:
        await bastion.certify(BOB)
    return Denial(1, refusal.value.public, (await bastion.events())[-1].kind)


async def another_identitys_certificate(bastion: World) -> Denial:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    stolen = key.with_name("id_bob-cert.pub")
    bastion.key("bob")
    stolen.write_text(key.with_name("id_ada-cert.pub").read_text())
    ran = await bastion.ssh(bastion.key("bob"), f"deploy@{WEB_STAGING}@bastion", "true")
    assert not await bastion.store.sessions()
    return Denial(ran.status, ran.err, Kind.CERTIFICATE_ISSUED)


async def an_expired_grant(bastion: World) -> Denial:
    await bastion.grant(ADA, lasts=timedelta(minutes=5))
    await bastion.certify(ADA)
    bastion.clock.skew = timedelta(minutes=5, seconds=1)
    denial = await _try(bastion, f"deploy@{WEB_STAGING}@bastion")
    assert "bastion: Grant g-" in denial.said
    return denial


async def another_login(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, f"admin@{WEB_STAGING}@bastion")


async def a_login_the_target_does_not_have(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, f"nobody@{WEB_STAGING}@bastion")


async def a_target_that_does_not_exist(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, "deploy@db-9.staging.eu@bastion")


async def another_scope(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, f"deploy@{WEB_PRODUCTION}@bastion")


async def another_scope_through_a_jump(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, f"deploy@{WEB_PRODUCTION}")


async def another_action(bastion: World) -> Denial:
    await bastion.grant(ADA, actions=frozenset({Action.SSH_SHELL}))
    await bastion.certify(ADA)
    return await _try(bastion, f"deploy@{WEB_STAGING}@bastion")


async def a_forbidden_login(bastion: World) -> Denial:
    await bastion.grant(ADA, logins=frozenset({"deploy", "root"}))
    await bastion.certify(ADA)
    return await _try(bastion, f"root@{WEB_STAGING}@bastion")


async def a_clock_one_minute_behind(bastion: World) -> Denial:
    await bastion.grant(ADA, begins=-timedelta(hours=1), lasts=timedelta(hours=3))
    await bastion.certify(ADA)
    bastion.clock.skew = -timedelta(minutes=1)
    return await _try(bastion, f"deploy@{WEB_STAGING}@bastion")


async def a_clock_one_minute_ahead(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    bastion.clock.skew = timedelta(minutes=11)
    return await _try(bastion, f"deploy@{WEB_STAGING}@bastion")


async def outside_the_fence(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, f"deploy@{WEB_STAGING}@bastion", bind=OUTSIDE)


async def another_address_inside_the_fence(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, f"deploy@{WEB_STAGING}@bastion", bind="127.0.0.2")


async def a_revoked_grant(bastion: World) -> Denial:
    grant = await bastion.grant(ADA)
    await bastion.certify(ADA)
    await bastion.revoke(grant)
    return await _try(bastion, f"deploy@{WEB_STAGING}@bastion")


async def no_target(bastion: World) -> Denial:
    await bastion.grant(ADA)
    await bastion.certify(ADA)
    return await _try(bastion, "bastion")


DENIALS: list[tuple[Callable[[World], Awaitable[Denial]], int, str, Kind]] = [
    (another_identity, 1, "bob@example.com has no live grant on web-1.staging.eu", Kind.CERTIFICATE_REFUSED),
    (another_identitys_certificate, 255, "Permission denied", Kind.CERTIFICATE_ISSUED),
    (an_expired_grant, 255, "ended at 20", Kind.CONNECTION_REFUSED),
    (another_login, 254, "is for the login deploy, not admin", Kind.ACCESS_DENIED),
    (a_login_the_target_does_not_have, 254, "has no login nobody", Kind.ACCESS_DENIED),
    (a_target_that_does_not_exist, 254, "There is no target 'db-9.staging.eu'", Kind.ACCESS_DENIED),
    (another_scope, 255, "The certificate for staging/eu does not open production/eu", Kind.CERTIFICATE_ISSUED),
    (another_scope_through_a_jump, 255, "is in production/eu", Kind.ACCESS_DENIED),
    (another_action, 254, "does not include ssh:exec", Kind.ACCESS_DENIED),
    (a_forbidden_login, 254, "no-root", Kind.ACCESS_DENIED),
    (a_clock_one_minute_behind, 255, "One of the two clocks is wrong", Kind.CONNECTION_REFUSED),
    (a_clock_one_minute_ahead, 255, "certificate ended at", Kind.CONNECTION_REFUSED),
    (outside_the_fence, 255, "127.0.0.66 is in BR", Kind.CONNECTION_REFUSED),
    (another_address_inside_the_fence, 255, "made for another address than yours (127.0.0.2)", Kind.CONNECTION_REFUSED),
    (a_revoked_grant, 255, "was revoked at", Kind.CONNECTION_REFUSED),
    (no_target, 254, "Which target?", Kind.CERTIFICATE_ISSUED),
]


@pytest.mark.parametrize(
    ("attempt", "status", "sentence", "kind"), DENIALS, ids=[row[0].__name__.replace("_", " ") for row in DENIALS]
)
async def test_is_denied(
    bastion: World, attempt: Callable[[World], Awaitable[Denial]], status: int, sentence: str, kind: Kind
) -> None:
    denial = await attempt(bastion)
    assert sentence in denial.said
    assert (denial.status, denial.kind) == (status, kind)


async def test_every_denial_has_a_sentence_of_its_own() -> None:
    sentences = [sentence for _, _, sentence, _ in DENIALS]
    assert len(set(sentences)) == len(sentences)


async def test_nothing_reaches_the_target_when_it_is_denied(bastion: World) -> None:
    await another_login(bastion)
    await outside_the_fence(bastion)
    assert not any("Connection from" in line or "Accepted" in line for line in bastion.staging.log())
