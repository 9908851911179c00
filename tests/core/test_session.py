"""A session's ends and warnings."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.policy import Action
from bastion.core.session import WARNINGS, End, Session, warnings_due
from tests.core.values import CARLA, NOW, STAGING, TICK, WEB_1

UNTIL = NOW + timedelta(hours=2)
FIVE, ONE = timedelta(minutes=5), timedelta(minutes=1)

LIVE = Session(
    id="s-1",
    node="bastion-1",
    identity=CARLA.id,
    display=CARLA.display,
    target=WEB_1.full_name,
    scope=STAGING,
    login="deploy",
    action=Action.SSH_SHELL,
    command=None,
    grant_id="g-1",
    certificate_serial=1,
    address="192.0.2.1",
    country="DE",
    started_at=NOW,
    until=UNTIL,
)


@pytest.mark.parametrize("end", list(End))
def test_every_end_is_told_to_the_client_in_a_sentence_of_its_own(end: End) -> None:
    assert end.sentence.endswith(".")
    assert end.sentence.isprintable()
    assert [other for other in End if other.sentence == end.sentence] == [end]


@pytest.mark.parametrize(
    ("ended", "state"),
    [
        pytest.param({}, "live", id="no end yet"),
        pytest.param({"ended_at": NOW, "end": End.CLIENT}, "ended", id="the client left"),
        pytest.param({"ended_at": NOW, "end": End.REVOKED}, "ended", id="revoked"),
        pytest.param({"ended_at": NOW, "end": End.INTERRUPTED}, "interrupted", id="its node died"),
    ],
)
def test_a_session_is_live_ended_or_interrupted(ended: dict[str, Any], state: str) -> None:
    assert replace(LIVE, **ended).state == state


@pytest.mark.parametrize(
    ("previously", "now", "due"),
    [
        pytest.param(NOW, UNTIL - FIVE - TICK, [], id="not yet"),
        pytest.param(UNTIL - FIVE - TICK, UNTIL - FIVE, [FIVE], id="five minutes before"),
        pytest.param(UNTIL - FIVE, UNTIL - FIVE + TICK, [], id="not twice"),
        pytest.param(UNTIL - ONE - TICK, UNTIL - ONE, [ONE], id="one minute before"),
        pytest.param(UNTIL - FIVE - TICK, UNTIL - ONE, [FIVE, ONE], id="both, when nobody looked in between"),
        pytest.param(UNTIL - timedelta(minutes=3), UNTIL - ONE, [ONE], id="none for what was past at the start"),
        pytest.param(NOW, UNTIL, [], id="none at the end"),
        pytest.param(NOW, UNTIL + ONE, [], id="none after the end"),
    ],
)
def test_a_warning_falls_due_once(previously: datetime, now: datetime, due: list[timedelta]) -> None:
    assert list(warnings_due(UNTIL, previously, now)) == due


@given(seconds=st.lists(st.integers(0, 7199), min_size=2).map(sorted))
def test_however_often_one_looks_every_warning_is_given_once(seconds: list[int]) -> None:
    moments = [NOW + timedelta(seconds=second) for second in seconds]
    given_ = [warning for earlier, later in pairwise(moments) for warning in warnings_due(UNTIL, earlier, later)]
    assert given_ == [warning for warning in WARNINGS if moments[0] < UNTIL - warning <= moments[-1]]
