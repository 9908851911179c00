"""One event, one line, the same bytes every time."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.audit import Event, Kind
from bastion.core.identity import IdentityId
from tests.core.test_target import LABELS
from tests.core.values import CARLA, NOW, STAGING

IDENTITIES = st.builds(IdentityId, st.text(min_size=1).filter(lambda text: "#" not in text), st.text(min_size=1))
_TEXT = st.none() | st.text(max_size=20)
_DETAIL = st.none() | st.booleans() | st.integers(min_value=2) | st.text(max_size=20)
"""Without 0 and 1, which Python takes for False and True, and JSON does not."""

_ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))

EVENTS = st.builds(
    Event,
    kind=st.sampled_from(Kind),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=_ZONES),  # noqa: DTZ001 - zones come after
    node=st.text(max_size=10),
    identity=st.none() | IDENTITIES,
    actor=st.none() | IDENTITIES,
    display=st.text(max_size=20),
    scope=st.none() | st.builds(type(STAGING), LABELS, LABELS),
    target=_TEXT, login=_TEXT, address=_TEXT, country=_TEXT, grant_id=_TEXT, session_id=_TEXT,
    reasons=st.lists(st.text(max_size=20), max_size=3).map(tuple),
    details=st.dictionaries(st.text(max_size=8), _DETAIL, max_size=3),
    seq=st.integers(1, 10**9),
)  # fmt: skip


@given(event=EVENTS)
def test_an_event_is_read_back_as_it_was_written(event: Event) -> None:
    line = event.to_json()
    assert Event.from_json(line, event.seq) == event
    assert Event.from_json(line, event.seq).to_json() == line


@given(event=EVENTS)
def test_an_event_is_one_line_of_utf_8(event: Event) -> None:
    line = event.to_json()
    assert "\n" not in line
    assert "\r" not in line
    assert line.encode()


@given(event=EVENTS, hours=st.integers(-12, 12))
def test_the_same_event_gives_the_same_bytes_in_every_zone(event: Event, hours: int) -> None:
    elsewhere = replace(event, at=event.at.astimezone(timezone(timedelta(hours=hours))))
    assert elsewhere.to_json() == event.to_json()


def test_the_line_is_canonical() -> None:
    event = Event(
        kind=Kind.ACCESS_DENIED, at=NOW, node="bastion-1", identity=CARLA.id, scope=STAGING,
        reasons=("nö",), details={"b": 1, "a": None}, seq=7,
    )  # fmt: skip
    assert event.to_json() == (
        '{"at":"2026-03-02T09:00:00+00:00","details":{"a":null,"b":1},"identity":"https://login.example.com#carla",'
        '"kind":"access:denied","node":"bastion-1","reasons":["nö"],"scope":"staging/eu"}'
    )


@given(event=EVENTS, other=EVENTS, name=st.sampled_from([each.name for each in fields(Event) if each.name != "seq"]))
def test_a_change_of_any_part_changes_the_line(event: Event, other: Event, name: str) -> None:
    changed = replace(event, **{name: getattr(other, name)})
    assert (changed.to_json() == event.to_json()) is (changed == event)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff b", "\ud800\n\x1b\u2028"], ids=ascii)
def test_what_has_no_utf_8_is_written_all_the_same_and_read_back(text: str) -> None:
    event = Event(kind=Kind.LOGIN_FAILED, at=NOW, node="bastion-1", display=text, details={"name": text})
    line = event.to_json().encode("utf-8").decode("utf-8")
    assert Event.from_json(line, 0) == event
    assert json.loads(line)["display"] == text


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_a_subject_and_a_verb(kind: Kind) -> None:
    subject, _, verb = kind.value.partition(":")
    assert subject.isalpha()
    assert verb.isalpha()
