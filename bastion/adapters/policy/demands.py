"""What a permit demands in return, written as annotations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

from bastion.core.errors import Refused
from bastion.core.files import Limits, Paths, parse_paths, parse_size
from bastion.core.grant import parse_duration
from bastion.core.hours import Hours
from bastion.core.policy import Demands
from bastion.core.ticket import TicketPattern

T = TypeVar("T")

KNOWN = frozenset({"approvals", "reviewers", "max_duration", "mfa", "auto", "reason", "ticket", "hours"})
"""Read on permits of ``request``, ``cross`` and ``break_glass``."""

LIMITING = frozenset({"paths", "max_file_size"})
"""Read on permits of ``ssh:sftp_read`` and ``ssh:sftp_write``."""

KEEPING = frozenset({"record"})
"""Read on permits of ``ssh:shell`` and ``ssh:exec``."""

MAX_APPROVALS = 9
"""A two-digit number is a typing mistake: nobody finds ten reviewers in the time a grant lasts."""

_REASON = re.compile(r"required(?:, *(\d{1,3}))?", re.ASCII)
_APPROVALS = re.compile(rf"[1-{MAX_APPROVALS}]")


MIN_REASON = range(1, 201)
"""Characters that a policy may ask of a reason."""


def read(annotations: Mapping[str, str]) -> Demands:
    """The demands of one permit.

    Raises:
        ValueError: an annotation cannot be read; the sentence names it.
    """
    if "auto" in annotations and annotations["auto"] != "true":
        raise ValueError(f'@auto("{annotations["auto"]}") must be @auto("true"), or be left out')
    if "auto" in annotations and (idle := sorted({"approvals", "reviewers"} & annotations.keys())):
        raise ValueError(f"@{idle[0]}(…) has no effect beside @auto: nobody is asked")
    mfa = annotations.get("mfa")
    if mfa not in (None, "required"):
        raise ValueError(f'@mfa("{mfa}") must be @mfa("required"), or be left out')
    return Demands(
        approvals=_approvals(annotations.get("approvals", "1")),
        reviewers=_read("reviewers", annotations, _groups, frozenset()),
        max_duration=_read("max_duration", annotations, _duration, None),
        mfa=mfa is not None,
        automatic="auto" in annotations,
        min_reason=_read("reason", annotations, _characters, 0),
        tickets=_read("ticket", annotations, lambda text: frozenset({TicketPattern.parse(text)}), frozenset()),
        hours=_read("hours", annotations, lambda text: frozenset({Hours.parse(text)}), frozenset()),
    )


def read_limits(annotations: Mapping[str, str]) -> Limits:
    """What one permit limits files to.

    Raises:
        ValueError: an annotation cannot be read; the sentence names it.
    """
    return Limits(
        within=_read("paths", annotations, _paths, frozenset()),
        max_size=_read("max_file_size", annotations, parse_size, None),
    )


def keeps_everything(annotations: Mapping[str, str]) -> bool:
    """Whether one permit wants everything recorded in full.

    Raises:
        ValueError: its annotation cannot be read.
    """
    if (text := annotations.get("record")) not in (None, "everything"):
        raise ValueError(f'@record("{text}") must be @record("everything"), or be left out')
    return text is not None


def _read(name: str, annotations: Mapping[str, str], parse: Callable[[str], T], absent: T) -> T:
    if (text := annotations.get(name)) is None:
        return absent
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f'@{name}("{text}"): {error}') from None


def _approvals(text: str) -> int:
    if not _APPROVALS.fullmatch(text):
        raise ValueError(f'@approvals("{text}") must be a number from 1 to {MAX_APPROVALS}')
    return int(text)


def _groups(text: str) -> frozenset[str]:
    groups = frozenset(group.strip() for group in text.split(","))
    if "" in groups:
        raise ValueError("must be names of groups with commas between them")
    return groups


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except Refused as refused:
        raise ValueError(refused.public) from None


def _paths(text: str) -> frozenset[Paths]:
    try:
        return frozenset({Paths(parse_paths(text.split(",")))})
    except Refused as refused:
        raise ValueError(refused.public) from None


def _characters(text: str) -> int:
    """``required``, or how many characters at least; without it a reason is required, too, but may be one word."""
    match = _REASON.fullmatch(text)
    if match is None or int(match[1] or "1") not in MIN_REASON:
        raise ValueError(f'must be "required", or with a length up to {MIN_REASON.stop - 1}: "required, 20"')
    return int(match[1] or "1")
