"""A bastion that is about to stop: nobody new comes in, and everybody inside is told until when they may stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]


class Closing:
    """Whether it is, and who wants to hear of it."""

    def __init__(self) -> None:
        self._inside: list[Say] = []
        self.sentence: str | None = None
        """For whoever comes now; None while the door is open."""

    @contextmanager
    def heard_by(self, say: Say) -> Iterator[None]:
        """Tell ``say`` if it begins while the block runs."""
        self._inside.append(say)
        try:
            yield
        finally:
            self._inside.remove(say)

    def begin(self, *, outside: str, inside: str) -> None:
        """``outside`` is what those who come read from now on, ``inside`` what those who are there read now."""
        self.sentence = outside
        for say in list(self._inside):
            say(inside)
