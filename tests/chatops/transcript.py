"""A conversation written down as people see it, and the file in ``docs/`` that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chatops.fake_slack import FakeSlack, Said

DOCUMENT = Path(__file__).parents[2] / "docs" / "chat.md"

_HEAD = """\
# One request, from asking to its end, in Slack

Written by `tests/chatops/test_conversation.py`, which holds this page equal to what people see; to write it anew:
`BASTION_WRITE_DOCS=1 make test ARGS=tests/chatops/test_conversation.py`. Buttons are in brackets, threads are indented.
Mattermost, Discord and Teams show the same sentences and the same buttons. Some of it, drawn from the same messages:

![The form, the request with its buttons, and the thread until its end](chat.svg)
"""

_IDS = re.compile(r"\b([qgs])-([0-9a-z]{12})\b")


@dataclass(slots=True)
class Transcript:
    """Steps, each with what it made visible. Ids are drawn at random, so here they are counted."""

    fake: FakeSlack
    steps: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def step(self, what: str, *shown: tuple[str, str]) -> None:
        """``what`` happened, and then these are seen: by whom, and the text."""
        blocks = [f"## {len(self.steps) + 1}. {what}", *(self._block(title, text) for title, text in shown)]
        self.steps.append("\n\n".join(blocks))

    def channel(self) -> tuple[str, str]:
        """The channel as it stands: each message with its thread."""
        lines: list[str] = []
        for root in self.fake.channel():
            lines += self._lines(root)
            for reply in self.fake.thread(root):
                lines += [f"    {line}" for line in self._lines(reply)]
        return "In the channel", "\n".join(lines)

    def written(self) -> str:
        return renamed("\n\n".join([_HEAD.rstrip(), *self.steps]) + "\n", self.names)

    def _lines(self, said: Said) -> Iterable[str]:
        first, *rest = self.fake.shown(said).split("\n")
        return [f"Bastion: {first}", *(f"         {line}" for line in rest)]

    def _block(self, title: str, text: str) -> str:
        return f"{title}:\n\n```text\n{text}\n```"


def renamed(text: str, names: dict[str, str]) -> str:
    """``text`` with its ids counted; ``names`` has those that were met before."""

    def name(match: re.Match[str]) -> str:
        letters = match.group(2)
        number = names.setdefault(letters, f"{len(names) + 1}")
        return f"{match.group(1)}-{number * 4}"

    return _IDS.sub(name, text)
