"""What a permit demands in return, written as annotations, and what several demands come to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from bastion.core.errors import Refused
from bastion.core.grant import parse_duration
from bastion.core.policy import Demands

KNOWN = frozenset({"approvals", "reviewers", "max_duration", "mfa"})
"""Read on permits of ``request``."""

MAX_APPROVALS = 9
"""A two-digit number is a typing mistake: nobody finds ten reviewers in the time a grant lasts."""

_APPROVALS = re.compile(rf"[1-{MAX_APPROVALS}]")


def read(annotations: Mapping[str, str]) -> Demands:
    """The demands of one permit.

    Raises:
        ValueError: an annotation cannot be read; the sentence names it.
    """
    approvals = annotations.get("approvals", "1")
    if not _APPROVALS.fullmatch(approvals):
        raise ValueError(f'@approvals("{approvals}") must be a number from 1 to {MAX_APPROVALS}')
    mfa = annotations.get("mfa")
    if mfa not in (None, "required"):
        raise ValueError(f'@mfa("{mfa}") must be @mfa("required"), or be left out')
    reviewers: frozenset[str] = frozenset()
    if (groups := annotations.get("reviewers")) is not None:
        reviewers = frozenset(group.strip() for group in groups.split(","))
        if "" in reviewers:
            raise ValueError(f'@reviewers("{groups}") must be names of groups with commas between them')
    max_duration = None
    if (duration := annotations.get("max_duration")) is not None:
        try:
            max_duration = parse_duration(duration)
        except Refused as refused:
            raise ValueError(f'@max_duration("{duration}"): {refused.public}') from None
    return Demands(int(approvals), reviewers, max_duration, mfa is not None)


def strictest(demands: Iterable[Demands]) -> Demands | None:
    """What satisfies every one of ``demands``, or None when nobody could.

    Two permits that name reviewers with no group in common are the case of None: the empty intersection must not
    become "no group named", which would leave it to anybody who may review.
    """
    result = Demands()
    for each in demands:
        reviewers = result.reviewers or each.reviewers
        if each.reviewers and not (reviewers := reviewers & each.reviewers):
            return None
        durations = [d for d in (result.max_duration, each.max_duration) if d is not None]
        result = Demands(
            approvals=max(result.approvals, each.approvals),
            reviewers=reviewers,
            max_duration=min(durations, default=None),
            mfa=result.mfa or each.mfa,
        )
    return result
