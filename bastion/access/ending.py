"""How requests and grants end by what people do: withdrawn, ended early, answered for afterwards.

Each is one transaction's part: what is, is read in it, and what is over already stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from bastion.access.attempt import Attempt
from bastion.access.ballot import answer_of, grant_id_of
from bastion.core import notice
from bastion.core.audit import Kind
from bastion.core.errors import Conflict, NotFound
from bastion.core.grant import Grant, Request, Review, Verdict
from bastion.core.identity import Identity
from bastion.core.notice import Why
from bastion.core.request import Life, Step, answers_owed
from bastion.ports import Transaction


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A break-glass as it was answered for; ``missing`` more answers close it."""

    request: Request
    beneficiary: Identity
    grant: Grant
    missing: int


async def withdraw(
    tx: Transaction, request_id: str, beneficiary: Identity, actor: Identity, attempt: Attempt
) -> Request:
    """Take the request back.

    Raises:
        Conflict: it is not open any more.
    """
    request = await tx.request(request_id)
    if request.withdrawn_at is not None:
        return request
    reviews = tuple(await tx.reviews(request_id))
    Life(request, beneficiary, reviews, await _grant_of(tx, request)).check(Step.WITHDRAW, attempt.now)
    withdrawn = await tx.withdraw_request(request_id, attempt.now)
    await tx.append(attempt.event(Kind.REQUEST_WITHDRAWN))
    await tx.add_notice(notice.Withdrawn(request_id, attempt.now, actor.id), attempt.now)
    return withdrawn


async def end(tx: Transaction, grant: Grant, actor: Identity, attempt: Attempt) -> Grant:
    """End a grant before its time."""
    if (stored := await tx.grant(grant.id)).revoked_at is not None:
        return stored
    attempt.concerns(stored)
    ended = await tx.revoke_grant(grant.id, attempt.now)
    await tx.append(attempt.event(Kind.GRANT_REVOKED))
    why = Why.GIVEN_BACK if actor.id == grant.identity else Why.REVOKED
    await tx.add_notice(notice.Ended(grant.request_id, attempt.now, grant.id, why, actor.id), attempt.now)
    return ended


async def acknowledge(
    tx: Transaction, request_id: str, beneficiary: Identity, review: Review, attempt: Attempt
) -> Acknowledgement:
    """Add an answer for a break-glass; a refusal ends its grant, and the last that is owed closes it.

    Raises:
        Conflict: it is closed, or this person has answered otherwise.
    """
    request, reviews = await tx.request(request_id), list(await tx.reviews(request_id))
    grant = await tx.grant(grant_id_of(request))
    mine = answer_of(review.reviewer, reviews)
    if mine is not None and mine.verdict is review.verdict:
        return Acknowledgement(request, beneficiary, grant, answers_owed(request, beneficiary, reviews))
    if mine is not None or request.closed_at is not None:
        raise Conflict(f"{request_id} was answered for already.")
    await tx.add_review(review)
    await tx.append(attempt.event(Kind.GLASS_REVIEWED, verdict=review.verdict.value, note=review.note))
    if review.verdict is Verdict.REFUSE:
        grant = await end(tx, grant, review.reviewer, attempt)
    missing = answers_owed(request, beneficiary, [*reviews, review])
    if missing == 0:
        request = await tx.close_request(request_id, attempt.now)
        told = notice.Acknowledged(request_id, attempt.now, grant.id, review.reviewer.id, review.verdict)
        await tx.add_notice(told, attempt.now)
    return Acknowledgement(request, beneficiary, grant, missing)


async def _grant_of(tx: Transaction, request: Request) -> Grant | None:
    try:
        return await tx.grant(grant_id_of(request))
    except NotFound:
        return None
