"""Ticket patterns: what can be written, and that nothing held against them takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.ticket import MAX_PATTERN, MAX_TICKET, TicketPattern

JIRA = TicketPattern.parse("[A-Z]+-[0-9]+")


@pytest.mark.parametrize(
    ("pattern", "ticket", "fits"),
    [
        ("[A-Z]+-[0-9]+", "OPS-17", True),
        ("[A-Z]+-[0-9]+", "OPS-17\n", False),
        ("[A-Z]+-[0-9]+", "xOPS-17", False),
        ("[A-Z]+-[0-9]+", "OPS-17x", False),
        ("[A-Z]+-[0-9]+", "OPS-\u0661\u0667", False),
        ("OPS-[0-9]{3}|#[0-9]+", "OPS-123", True),
        ("OPS-[0-9]{3}|#[0-9]+", "#1", True),
        ("OPS-[0-9]{3}|#[0-9]+", "OPS-1", False),
        (r"INC\d+", "INC0042", True),
        ("[A-Z]+-[0-9]+", "A" * MAX_TICKET + "-1", False),
    ],
)
def test_a_pattern_is_held_against_the_whole_ticket(pattern: str, ticket: str, fits: bool) -> None:
    assert TicketPattern.parse(pattern).matches(ticket) is fits


def test_a_ticket_is_found_in_a_sentence() -> None:
    assert JIRA.find("fix the queue (OPS-17), see also OPS-18") == "OPS-17"
    assert JIRA.find("fix the queue") is None


@pytest.mark.parametrize(
    "pattern",
    ["", "(a+)+", "(a|a)*", "a**", "a{1000}", ".*", "a*b*c*d*", r"\1", r"(?=a)", "[", "[^a]", "a|", "a++",
     "x" * (MAX_PATTERN + 1), "a*?", "^a$", "[z-a]"],
)  # fmt: skip
def test_what_could_take_for_ever_or_mean_something_else_cannot_be_written(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern|repeats"):
        TicketPattern.parse(pattern)


def test_the_worst_that_can_be_written_is_still_fast() -> None:
    worst = TicketPattern.parse("[a-z]*[a-y]*[a-x]*1|[a-z]+[a-z]+[a-z]+2|a*a*a*3")
    began = time.process_time()
    assert not worst.matches("a" * MAX_TICKET)
    assert time.process_time() - began < 1


@given(st.text(max_size=200))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    found = JIRA.find(text)
    assert found is None or JIRA.matches(found)
