"""What changes between the approval of a grant and its use, over the wire: the certificate is in the contractor's hand
already, and what is true when they connect decides.

Not among what changes: who approved. A grant is judged by the reviewers as they are when it is made; that one of them
leaves the group afterwards ends no grant, and docs/adr/0035 says why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from bastion.access.approval import Approval
from bastion.access.ballot import Granted
from bastion.access.drafting import MoreTime
from bastion.access.wish import Wish
from bastion.adapters.policy import CedarPolicies
from bastion.core.errors import Conflict, Refused
from bastion.core.geofence import Fence
from bastion.core.grant import Grant, Verdict
from bastion.core.identity import Identity
from tests.world import POLICY, WEB_STAGING, Finished, World, person, world

ASKED = """
@id("asks") permit (principal in Group::"contractors", action == Action::"request", resource);
@id("answers") permit (principal in Group::"sre", action == Action::"review", resource);
"""
ADA, SAM = person("ada"), person("sam", frozenset({"sre"}))
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Approved:
    """Ada's grant, which Sam has approved, and her certificate for it."""

    bastion: World
    approval: Approval
    grant: Grant
    key: Path

    async def know(self, identity: Identity) -> None:
        """They log in, as they are now."""
        async with self.bastion.store.transaction() as tx:
            await tx.save_identity(identity, self.bastion.clock.now())

    def rule(self, policy: str) -> None:
        """From now on other policies hold."""
        self.bastion.policies.replace(CedarPolicies(policy, self.bastion.catalogue))

    async def connect(self) -> Finished:
        return await self.bastion.ssh(self.key, f"deploy@{WEB_STAGING}@bastion", "echo in")


@pytest.fixture
async def approved(tmp_path: Path) -> AsyncIterator[Approved]:
    async with world(tmp_path, policy=POLICY + ASKED) as bastion:
        approval = Approval(
            store=bastion.store, policies=bastion.policies, coordination=bastion.coordination,
            catalogue=bastion.catalogue, clock=bastion.clock, node="test-1",
        )  # fmt: skip
        async with bastion.store.transaction() as tx:
            for identity in (ADA, SAM):
                await tx.save_identity(identity, bastion.clock.now())
        request = await approval.request(ADA, ADA, Wish((WEB_STAGING,), ("deploy",), HOUR, "a test"), None)
        answer = await approval.review(request.id, SAM, Verdict.APPROVE, None)
        assert isinstance(answer, Granted)
        yield Approved(bastion, approval, answer.grant, await bastion.certify(ADA))


async def the_policy_forbids_it(approved: Approved) -> None:
    approved.rule(POLICY + ASKED + '@id("freeze") forbid (principal, action in Action::"connect", resource);')


async def the_policy_permits_it_no_longer(approved: Approved) -> None:
    narrower = POLICY.replace("resource == ?resource);", 'resource == ?resource) when { resource.login == "admin" };')
    assert narrower != POLICY
    approved.rule(narrower + ASKED)


async def the_policy_asks_for_a_group_that_its_holder_has_left(approved: Approved) -> None:
    approved.rule(
        POLICY + '@id("staff") forbid (principal, action in Action::"connect", resource) '
        'unless { principal in Group::"contractors" };'
    )
    assert (await approved.connect()).status == 0
    await approved.know(replace(ADA, groups=frozenset()))


async def the_login_is_gone_from_the_target(approved: Approved) -> None:
    approved.bastion.change_target(logins=frozenset({"admin"}))


async def the_target_is_gone_from_the_scope(approved: Approved) -> None:
    """To another scope it moves under another name: a name has its scope in it."""
    cast(dict[str, Any], approved.bastion.catalogue.targets).pop(WEB_STAGING)


async def the_region_has_another_fence(approved: Approved) -> None:
    regions = cast(dict[str, Any], approved.bastion.catalogue.regions)
    regions["eu"] = replace(regions["eu"], fence=Fence(frozenset({"FR"})))


async def more_time_was_asked_for_and_is_approved_after_it_was_revoked(approved: Approved) -> None:
    asked = await approved.approval.extend(approved.grant.id, ADA, MoreTime(HOUR, "not done"), None)
    await approved.approval.revoke(approved.grant.id, SAM, None)
    with pytest.raises(Conflict):
        await approved.approval.review(asked.request.id, SAM, Verdict.APPROVE, None)


CHANGES: list[tuple[Callable[[Approved], Awaitable[None]], str]] = [
    (the_policy_forbids_it, "Forbidden by policy freeze"),
    (the_policy_permits_it_no_longer, "No policy permits ada@example.com to ssh:exec on web-1.staging.eu as deploy."),
    (the_policy_asks_for_a_group_that_its_holder_has_left, "Forbidden by policy staff"),
    (the_login_is_gone_from_the_target, "web-1.staging.eu has no login deploy."),
    (the_target_is_gone_from_the_scope, "There is no target 'web-1.staging.eu'"),
    (the_region_has_another_fence, "127.0.0.1 is in DE"),
    (more_time_was_asked_for_and_is_approved_after_it_was_revoked, "was revoked at"),
]


@pytest.mark.parametrize(
    ("change", "sentence"), CHANGES, ids=[change.__name__.replace("_", " ") for change, _ in CHANGES]
)
async def test_what_is_true_when_they_connect_decides(
    approved: Approved, change: Callable[[Approved], Awaitable[None]], sentence: str
) -> None:
    await change(approved)
    before = len(await approved.bastion.store.sessions())
    ran = await approved.connect()
    assert ran.status != 0
    assert sentence in ran.err
    assert b"in" not in ran.out
    assert len(await approved.bastion.store.sessions()) == before


async def test_a_grant_stands_when_its_approver_leaves_the_group(approved: Approved) -> None:
    """And whoever left gives nothing more: neither more time nor another grant."""
    await approved.know(replace(SAM, groups=frozenset()))
    assert (await approved.connect()).out == b"in\n"
    asked = await approved.approval.extend(approved.grant.id, ADA, MoreTime(HOUR, "not done"), None)
    gone = await approved.bastion.store.identity(SAM.id)
    with pytest.raises(Refused, match="No policy permits sam@example.com to review"):
        await approved.approval.review(asked.request.id, gone, Verdict.APPROVE, None)
    assert (await approved.bastion.store.grant(approved.grant.id)).ends_at == approved.grant.ends_at
