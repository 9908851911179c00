"""What is printed of sessions and events is one line, and nothing a terminal could obey."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bastion.cli.printed import escaped, event_line


@given(st.dictionaries(st.text(max_size=5), st.text()), st.text(), st.text())
def test_an_event_is_one_printable_line_whatever_people_called_themselves(
    details: dict[str, str], display: str, reason: str
) -> None:
    event = {"at": "2026-03-02T09:00:00", "kind": "access:denied", "display": display, "reasons": [reason]}
    assert event_line({**event, "details": details}).isprintable()


def test_what_a_terminal_could_obey_is_written_out() -> None:
    assert escaped("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\n\\u202eb"


def test_an_event_line_has_all_that_is_known() -> None:
    line = event_line(
        {
            "at": "2026-03-02T09:00:00.123+00:00", "kind": "grant:approved", "display": "carla@example.com",
            "actor": "https://login.example.com#sam", "target": "web-1.staging.eu", "login": "deploy",
            "address": "192.0.2.1", "country": "DE", "grant_id": "g-1", "reasons": ["because", "of this"],
            "details": {"for": "2h", "empty": ""},
        }
    )  # fmt: skip
    assert line == (
        "2026-03-02 09:00:00Z  grant:approved         carla@example.com by https://login.example.com#sam  "
        "deploy@web-1.staging.eu  192.0.2.1 (DE)  g-1  for=2h  because; of this"
    )
