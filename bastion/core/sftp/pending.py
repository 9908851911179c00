"""Requests that have no answer yet, by what their answer will mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from bastion.core.sftp.opened import Opened
from bastion.core.sftp.packets import Kind
from bastion.core.sftp.requests import Request


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that passed and does nothing to an open file."""

    text: str
    answer: Kind


@dataclass(frozen=True, slots=True)
class Opening:
    """A request for a handle."""

    text: str
    answer: Kind
    path: bytes
    flags: int | None
    """None for a directory."""


@dataclass(frozen=True, slots=True)
class Examining:
    """A request that has not passed: the target is being asked where its paths lead."""

    text: str
    request: Request


@dataclass(frozen=True, slots=True)
class Reading:
    """A READ; what comes may be shorter than ``length``."""

    opened: Opened
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Writing:
    """A WRITE; its data has passed already."""

    opened: Opened


@dataclass(frozen=True, slots=True)
class Listing:
    """A READDIR."""

    opened: Opened


@dataclass(frozen=True, slots=True)
class Closing:
    """A CLOSE; its file has its line with the last answer that concerns it."""

    opened: Opened


@dataclass(frozen=True, slots=True)
class AnsweredHere:
    """A request that did not pass; its answer waits for those of the requests before it."""

    packet: bytes


Passed = Asked | Opening | Reading | Writing | Listing | Closing
Pending = Passed | Examining | AnsweredHere


def opened_of(pending: dict[int, Pending]) -> Iterator[Opened]:
    """The open files that ``pending`` concerns, one of them perhaps several times."""
    for each in pending.values():
        match each:
            case Reading(opened) | Writing(opened) | Listing(opened) | Closing(opened):
                yield opened
            case Asked() | Opening() | Examining() | AnsweredHere():
                pass
            case _:
                assert_never(each)
