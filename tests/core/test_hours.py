"""Working hours with a time zone: through clock changes and leap days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.hours import DAYS, Hours

BERLIN = Hours.parse("Mon-Fri 08:00-18:00 Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "within"),
    [
        pytest.param("2026-03-02T06:59:59", False, id="Monday, before eight in winter"),
        pytest.param("2026-03-02T07:00:00", True, id="Monday at eight in winter"),
        pytest.param("2026-03-02T16:59:59", True, id="Monday, before six in winter"),
        pytest.param("2026-03-02T17:00:00", False, id="Monday at six in winter"),
        pytest.param("2026-03-30T06:00:00", True, id="Monday at eight, the day after clocks went forward"),
        pytest.param("2026-03-30T16:00:00", False, id="Monday at six, the day after clocks went forward"),
        pytest.param("2026-10-26T07:00:00", True, id="Monday at eight, the day after clocks went back"),
        pytest.param("2026-10-26T06:30:00", False, id="Monday, half past seven, the day after clocks went back"),
        pytest.param("2026-03-07T12:00:00", False, id="Saturday"),
        pytest.param("2028-02-29T12:00:00", True, id="a leap day that is a Tuesday"),
    ],
)
def test_hours_hold_what_the_clock_on_the_wall_says(moment: str, within: bool) -> None:
    assert BERLIN.holds(utc(moment)) is within


@pytest.mark.parametrize(
    ("hours", "moment", "closes"),
    [
        pytest.param(BERLIN, "2026-03-27T12:00", "2026-03-27T17:00", id="winter"),
        pytest.param(BERLIN, "2026-03-30T12:00", "2026-03-30T16:00", id="summer"),
        pytest.param("Sun 00:00-24:00 Europe/Berlin", "2026-03-29T05:00", "2026-03-29T22:00", id="a day of 23 hours"),
        pytest.param("Sun 00:00-24:00 Europe/Berlin", "2026-10-25T05:00", "2026-10-25T23:00", id="a day of 25 hours"),
        pytest.param("Sun 02:30-12:00 Europe/Berlin", "2026-03-29T05:00", "2026-03-29T10:00", id="opens in the gap"),
        pytest.param("Sun 00:00-02:30 Europe/Berlin", "2026-10-24T23:00", "2026-10-25T00:30", id="closes once, early"),
        pytest.param("Sat,Sun 00:00-24:00 UTC", "2026-03-07T12:00", "2026-03-09T00:00", id="a weekend is one time"),
        pytest.param("Tue 09:00-17:00 Asia/Kolkata", "2028-02-29T05:00", "2028-02-29T11:30", id="half-hour zone"),
    ],
)
def test_hours_end_when_the_clock_on_the_wall_says(hours: Hours | str, moment: str, closes: str) -> None:
    written = Hours.parse(hours) if isinstance(hours, str) else hours
    assert written.close_after(utc(moment)) == utc(closes)


def test_a_time_that_happens_twice_opens_late_and_closes_early() -> None:
    opening, closing = (Hours.parse(f"Sun {span} Europe/Berlin") for span in ("02:30-12:00", "00:00-02:30"))
    first, second = utc("2026-10-25T00:30"), utc("2026-10-25T01:30")  # 02:30 in summer, and again in winter
    assert (opening.holds(first), opening.holds(second)) == (False, True)
    assert (closing.holds(first - timedelta(minutes=1)), closing.holds(first)) == (True, False)


def test_always_is_possible_and_has_an_end() -> None:
    always = Hours.parse("Mon-Sun 00:00-24:00 UTC")
    now = utc("2026-03-02T09:00")
    assert always.close_after(now) > now + timedelta(days=30)


@pytest.mark.parametrize(
    "text",
    [
        "", "Mon-Fri", "Mon-Fri 08:00-18:00", "Mon-Fri 8:00-18:00 UTC", "Mon-Fri 18:00-08:00 UTC",
        "Mon-Fri 08:00-08:00 UTC", "Mon-Fri 08:00-24:01 UTC", "Mon-Fri 08:60-18:00 UTC", "Fri-Mon 08:00-18:00 UTC",
        "Mon, 08:00-18:00 UTC", "Montag 08:00-18:00 UTC", "Mon-Fri 08:00-18:00 Europe/Berln",
        "Mon-Fri 08:00-18:00 ../etc/passwd", "Mon-Fri 08:00-18:00 /etc/passwd", "Mon-Fri 25:00-26:00 UTC",
    ],
)  # fmt: skip
def test_what_are_no_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"hours|zone|day|backwards"):
        Hours.parse(text)


MOMENTS = st.integers(0, 3 * 366 * 86_400).map(lambda seconds: utc("2026-01-01T00:00") + timedelta(seconds=seconds))
WRITTEN = st.builds(
    lambda days, opens, length, zone: Hours(days, opens, min(opens + length, 1440), zone),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1440),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
)


@given(hours=WRITTEN, moment=MOMENTS)
def test_what_hours_hold_is_before_their_end_and_the_end_is_not_held(hours: Hours, moment: datetime) -> None:
    assert Hours.parse(str(hours)) == hours
    if hours.holds(moment):
        end = hours.close_after(moment)
        assert moment < end
        if end < moment + timedelta(days=30):
            assert not hours.holds(end)
    else:
        with pytest.raises(ValueError, match="is not within"):
            hours.close_after(moment)


def test_days_are_written_short() -> None:
    assert str(BERLIN) == "Mon,Tue,Wed,Thu,Fri 08:00-18:00 Europe/Berlin"
    assert [Hours.parse(f"{day} 08:00-09:00 UTC").days for day in DAYS] == [frozenset({n}) for n in range(7)]
