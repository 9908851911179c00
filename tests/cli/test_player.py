"""The player waits, pauses and stops as it was asked to, and finds what was displayed."""

from __future__ import annotations

import io
import re

import pytest

from bastion.cli.player import Match, Player, Quit, find, keyboard, shown_lines
from bastion.core.recording import Code, Entry, Header
from bastion.core.screen import RESTORE


class Watcher:
    """Sits in front of a player, and presses keys instead of waiting."""

    def __init__(self, *keys: str | None) -> None:
        self.keys = list(keys)
        self.waited: list[float | None] = []
        self.text = io.StringIO()

    def wait(self, seconds: float | None) -> str | None:
        self.waited.append(seconds)
        return self.keys.pop(0) if self.keys else None


def entries(*pieces: tuple[float, bytes]) -> list[Entry]:
    return [Entry(round(at * 1_000_000), Code.OUTPUT, data) for at, data in pieces]


HELLO = entries((1, b"hel"), (3, b"lo"), (63, b"!"))


@pytest.mark.parametrize(
    ("speed", "skip_idle", "waited"),
    [
        pytest.param(1, None, [1, 2, 60], id="in its own time"),
        pytest.param(2, None, [0.5, 1, 30], id="twice as fast"),
        pytest.param(1, 1.5, [1, 1.5, 1.5], id="without long pauses"),
        pytest.param(4, 2, [0.25, 0.5, 0.5], id="both"),
    ],
)
def test_a_player_waits_as_it_was_asked_to(speed: float, skip_idle: float | None, waited: list[float]) -> None:
    watcher = Watcher()
    Player(watcher.text.write, watcher.wait, speed, skip_idle).play(HELLO)
    assert watcher.waited == waited
    assert watcher.text.getvalue() == f"hello!{RESTORE}"


def test_space_pauses_until_space() -> None:
    watcher = Watcher(" ", "x", " ")
    Player(watcher.text.write, watcher.wait).play(HELLO)
    assert watcher.waited[1:3] == [None, None]
    assert watcher.text.getvalue() == f"hello!{RESTORE}"


def test_plus_and_minus_change_the_speed() -> None:
    watcher = Watcher("+", None, "-", "-", None)
    player = Player(watcher.text.write, watcher.wait)
    player.play(HELLO)
    assert player.speed == 0.5


@pytest.mark.parametrize("keys", [["q"], [" ", "q"], ["\x03"]])
def test_q_ends_it_and_puts_the_terminal_back(keys: list[str]) -> None:
    watcher = Watcher(*keys)
    with pytest.raises(Quit):
        Player(watcher.text.write, watcher.wait).play(HELLO)
    assert watcher.text.getvalue() == RESTORE


def test_without_a_terminal_there_are_no_keys() -> None:
    with keyboard(io.StringIO()) as wait:
        assert wait(0) is None


PTY, PIPE = Header(80, 24, "xterm", 0), Header(80, 24, "", 0)


def test_input_is_searched_only_where_nothing_echoed_it() -> None:
    typed = [Entry(0, Code.INPUT, b"rm -rf /srv\n")]
    assert list(shown_lines(PTY, typed)) == []
    assert list(shown_lines(PIPE, typed)) == [(0.0, "rm -rf /srv")]


def test_matches_come_with_the_lines_around_them() -> None:
    lines = [(float(n), text) for n, text in enumerate("abXdXf")]
    wanted = re.compile("x", re.IGNORECASE)
    assert list(find(lines, wanted, 1)) == [Match(2, "X", ("b",), ("d",)), Match(4, "X", ("d",), ("f",))]
    assert list(find(lines, wanted, 0)) == [Match(2, "X"), Match(4, "X")]
    assert list(find(lines, wanted, 5)) == [
        Match(2, "X", ("a", "b"), ("d", "X", "f")), Match(4, "X", ("a", "b", "X", "d"), ("f",))
    ]  # fmt: skip
