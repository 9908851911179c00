"""The menu: keys in, a screen out, whatever the keys, the size and the names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.menu import Ask, Chosen, Go, Leave, Menu, Offer

WEB = Offer("web-1.staging.eu", "deploy", "until 14:05 UTC", True)
ADMIN = Offer("web-1.staging.eu", "admin", "may be requested", False)
DB = Offer("db-1.staging.eu", "deploy", "until 14:05 UTC", True)
OFFERS = [WEB, ADMIN, DB]
UP, DOWN, ENTER, ESC, CTRL_C = b"\x1b[A", b"\x1b[B", b"\r", b"\x1b", b"\x03"

CONTROLS = re.compile(r"\x1b\[(?:H|K|J|7m|2m|0m)")


def menu(*, columns: int = 80, lines: int = 24, utf8: bool = True, offers: list[Offer] = OFFERS) -> Menu:
    return Menu("staging/eu: where to?", offers, columns=columns, lines=lines, utf8=utf8)


def shown(menu: Menu) -> list[str]:
    """The lines of the screen, as somebody sees them."""
    return CONTROLS.sub("", menu.screen().decode()).split("\r\n")


def selected(menu: Menu) -> str:
    (line,) = [line for line in shown(menu) if line.startswith(" > ")]
    return line


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        pytest.param(ENTER, Go(WEB), id="the first one"),
        pytest.param(DOWN + DOWN + ENTER, Go(DB), id="by arrows"),
        pytest.param(b"\x1bOB\x1bOB\x1bOA\x1bOB" + ENTER, Go(DB), id="by arrows of an application's keypad"),
        pytest.param(DOWN * 9 + ENTER, Go(DB), id="not past the end"),
        pytest.param(UP + ENTER, Go(WEB), id="not before the beginning"),
        pytest.param(b"db" + ENTER, Go(DB), id="by typing"),
        pytest.param(b"DEPLOY db" + ENTER, Go(DB), id="by several words, in any order and case"),
        pytest.param(b"dx\x7fb" + ENTER, Go(DB), id="a letter taken back"),
        pytest.param(b"nothing" + ENTER + b"\x15" + ENTER, Go(WEB), id="all letters taken back"),
        pytest.param(b"\x1b[1;5Cdb\x1b[200~" + ENTER, Go(DB), id="keys that mean nothing"),
        pytest.param(CTRL_C, Leave(), id="Ctrl-C"),
        pytest.param(b"\x04", Leave(), id="Ctrl-D"),
        pytest.param(ESC + ESC, Leave(), id="Esc twice"),
        pytest.param(b"admin\r" + CTRL_C, Leave(), id="Ctrl-C in the form"),
        pytest.param(b"admin\r\rfix it\r", Ask(ADMIN, "1h", "fix it"), id="asked for"),
        pytest.param(b"admin\r\x152h30m\rfix it\r", Ask(ADMIN, "2h30m", "fix it"), id="for another time"),
        pytest.param("admin\r\rпочинить\r".encode(), Ask(ADMIN, "1h", "починить"), id="in any language"),
        pytest.param(b"admin\r\r\r", None, id="not without a reason"),
        pytest.param(b"admin\r\x15\r", None, id="not without a duration"),
        pytest.param(b"nothing\r", None, id="nothing to choose"),
    ],
)
def test_keys_choose(keys: bytes, chosen: Chosen | None) -> None:
    assert menu().feed(keys) == chosen
    one_by_one = menu()
    assert [one for key in keys if (one := one_by_one.feed(bytes([key]))) is not None] == ([chosen] if chosen else [])


def test_escape_is_one_when_nothing_follows_it() -> None:
    """The same byte begins an arrow."""
    begun = menu()
    assert begun.feed(ESC) is None
    assert begun.settle() == Leave()
    arrow = menu()
    assert arrow.feed(ESC) is None
    assert arrow.feed(b"[B") is None
    assert "admin" in selected(arrow)
    assert arrow.settle() is None


def test_escape_goes_back_from_the_form_to_the_list() -> None:
    back = menu()
    assert back.feed(b"admin\r" + ESC) is None
    assert back.settle() is None
    assert "admin" in selected(back)


def test_what_follows_the_choice_is_not_lost() -> None:
    typed_ahead = menu()
    assert typed_ahead.feed(b"\rls -l\n") == Go(WEB)
    assert typed_ahead.rest == b"ls -l\n"


def test_what_was_refused_can_be_changed_and_asked_again() -> None:
    again = menu()
    again.feed(b"admin\r\rfix it\r")
    again.refused("The policy wants a ticket.")
    assert " The policy wants a ticket." in shown(again)
    assert again.feed(b" OPS-1\r") == Ask(ADMIN, "1h", "fix it OPS-1")


def test_it_is_the_screen_of_80_by_24() -> None:
    assert [line for line in shown(menu()) if line] == [
        " staging/eu: where to?",
        " Search: _",
        " > web-1.staging.eu  deploy  until 14:05 UTC",
        "   web-1.staging.eu  admin   may be requested",
        "   db-1.staging.eu   deploy  until 14:05 UTC",
        " 3 of 3   Enter connects or asks, arrows choose, Esc leaves.",
    ]


def test_a_long_list_is_turned_by_pages() -> None:
    many = menu(offers=[Offer(f"web-{number}.staging.eu", "deploy", "", True) for number in range(100)])
    many.feed(b"\x1b[6~")
    page = [line for line in shown(many) if "web-" in line]
    assert 10 < len(page) < 24
    many.feed(b"\x1b[F")
    assert "web-99" in selected(many)
    many.feed(b"\x1b[H")
    assert "web-0." in selected(many)


def test_without_utf_8_there_is_ascii_alone() -> None:
    plain = menu(utf8=False, columns=30, offers=[Offer("web-é" + "x" * 40, "deploy", "", True)])
    plain.feed("ü".encode())
    assert plain.screen().isascii()
    plain.feed(b"\x15")
    assert "..." in selected(plain)


names = st.text(max_size=80)
sizes = st.integers(min_value=1, max_value=130)


@given(
    offers=st.lists(st.builds(Offer, names, names, names, st.booleans()), max_size=8),
    typed=st.binary(max_size=80), said=names, columns=sizes, lines=sizes, utf8=st.booleans(), cut=st.integers(0, 80),
)  # fmt: skip
def test_whatever_happens_the_screen_is_one(
    offers: list[Offer], typed: bytes, said: str, columns: int, lines: int, utf8: bool, cut: int
) -> None:
    """Not larger than the terminal, and without anything that it would obey but what draws it."""
    any_menu = Menu("title", offers, columns=columns, lines=lines, utf8=utf8)
    for piece in (typed[:cut], typed[cut:]):
        if any_menu.feed(piece) is not None:
            break
    any_menu.refused(said)
    drawn = any_menu.screen().decode()
    rows = CONTROLS.sub("", drawn).split("\r\n")
    assert len(rows) <= lines
    assert all(len(row) < max(2, columns) and row.isprintable() for row in rows)


@given(typed=st.binary(max_size=60), cut=st.integers(0, 60))
def test_how_the_bytes_are_cut_makes_no_difference(typed: bytes, cut: int) -> None:
    whole, pieces = menu(), menu()
    chosen = whole.feed(typed)
    first = pieces.feed(typed[:cut])
    assert chosen == (first if first is not None else pieces.feed(typed[cut:]))
    if chosen is None:
        assert whole.screen() == pieces.screen()
