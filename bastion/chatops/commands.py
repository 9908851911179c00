"""What people type after ``/bastion``, as frozen commands. Text in, value out.

Every platform's text arrives here in the form that Slack gives it. Slack is told to escape what it sends: a mention
arrives as ``<@U123|name>``, a name that looks like a host as ``<http://web-1.staging.eu|web-1.staging.eu>``, and ``&``,
``<``, ``>`` as entities. A plain ``@name`` is whatever its writer wants it to be, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

from bastion.access.wish import MORE, Wish, parse_actions, parse_network
from bastion.core.errors import Refused
from bastion.core.files import parse_paths
from bastion.core.geofence import Network
from bastion.core.grant import parse_duration
from bastion.core.policy import Action
from bastion.core.target import printable

MAX_TEXT = 4000
"""Characters; Slack cuts a message there."""

GRANT = '/bastion grant @contractor web-1 as deploy for 2h because "what this is for"'
REVOKE = "/bastion revoke @contractor web-1 — or /bastion revoke g-… with the grant's id"
REQUEST = '/bastion request web-1 as deploy for 2h because "what this is for"'
APPROVE = "/bastion approve q-…"
DENY = "/bastion deny q-…"
EXTEND = '/bastion extend g-… for 1h because "what is left to do"'
WITHDRAW = "/bastion withdraw q-…"
BREAK_GLASS = '/bastion break-glass web-1 as deploy for 1h because "what is on fire"'


@dataclass(frozen=True, slots=True)
class Mention:
    """Somebody's account in the same workspace, by the platform's own id."""

    user: str


@dataclass(frozen=True, slots=True)
class GrantCommand:
    beneficiary: Mention
    wish: Wish


@dataclass(frozen=True, slots=True)
class RequestCommand:
    wish: Wish


@dataclass(frozen=True, slots=True)
class RevokeGrantCommand:
    grant_id: str


@dataclass(frozen=True, slots=True)
class RevokeTargetCommand:
    beneficiary: Mention
    target: str


@dataclass(frozen=True, slots=True)
class ApproveCommand:
    request_id: str


@dataclass(frozen=True, slots=True)
class DenyCommand:
    request_id: str


@dataclass(frozen=True, slots=True)
class ExtendCommand:
    grant_id: str
    duration: timedelta
    reason: str


@dataclass(frozen=True, slots=True)
class WithdrawCommand:
    request_id: str


@dataclass(frozen=True, slots=True)
class BreakGlassCommand:
    wish: Wish


@dataclass(frozen=True, slots=True)
class SessionsCommand:
    """What do I have open?"""


@dataclass(frozen=True, slots=True)
class WhoCommand:
    """Who am I here, what do I have, and what waits for me?"""


@dataclass(frozen=True, slots=True)
class LinkCommand:
    """Tie this account to an identity."""


@dataclass(frozen=True, slots=True)
class HelpCommand:
    pass


Command = (
    GrantCommand
    | RequestCommand
    | RevokeGrantCommand
    | RevokeTargetCommand
    | ApproveCommand
    | DenyCommand
    | ExtendCommand
    | WithdrawCommand
    | BreakGlassCommand
    | SessionsCommand
    | WhoCommand
    | LinkCommand
    | HelpCommand
)

_MENTION = re.compile(
    r"<@([UW][A-Z0-9]{1,30}|[a-z0-9]{26}|[0-9]{15,20}|[0-9]{1,3}:[A-Za-z0-9_-]{1,120})(?:\|[^<>]*)?>", re.ASCII
)
"""Ids of Slack, Mattermost, Discord and Teams."""

_WORD = re.compile(r"<[^<>]*>|[^\s<>]+|[<>]")
"""A bracketed thing of Slack's, which may hold spaces, or what is between spaces."""

_BRACKETED = re.compile(r"<([^<>|]*)(?:\|([^<>]*))?>")
_LINK = re.compile(r"https?://([^/|<>]+)/?")
_ID = {"g": re.compile(r"g-[0-9a-z]{4,40}", re.ASCII), "q": re.compile(r"q-[0-9a-z]{4,40}", re.ASCII)}
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“”", "”": "”", "«": "»", "»": "«", "‘": "’", "‚": "‘’"}
"""What may open a quotation, and what may close it."""


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    start: int


def parse(text: str) -> Command:
    """The command that ``text`` is, without the leading ``/bastion``.

    Raises:
        Refused: it is none; the sentence shows the right form.
    """
    if len(text) > MAX_TEXT:
        raise Refused(f"A command has at most {MAX_TEXT} characters.")
    words = [_Word(match.group(), match.start()) for match in _WORD.finditer(text)]
    if not words:
        return HelpCommand()
    verb, rest = words[0].text.lower(), words[1:]
    reader = _READERS.get(verb)
    if reader is None:
        known = ", ".join(sorted(_READERS))
        raise Refused(f"{printable(plain(words[0].text), 40)!r} is not a command. There are: {known}.")
    return reader(text, rest)


def plain(text: str) -> str:
    """What the writer saw when they wrote it: mentions, channels and links by their label, entities resolved."""
    shown = _BRACKETED.sub(lambda match: _label(match.group(1), match.group(2)), text)
    # The ampersand last, or "&amp;lt;" would be resolved twice.
    return shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def wire_text(text: str) -> str:
    """``text`` as Slack would have escaped it: for platforms that do not, so that all of them are parsed alike."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _label(inside: str, label: str | None) -> str:
    sign = inside[:1] if inside[:1] in ("@", "#") else ""
    return sign + (label if label is not None else inside.removeprefix(sign).replace("!", "@", 1))


def _grant(text: str, words: Sequence[_Word]) -> GrantCommand:
    return GrantCommand(_mention(words, GRANT), _wish(text, words[1:], GRANT))


def _request(text: str, words: Sequence[_Word]) -> RequestCommand:
    return RequestCommand(_wish(text, words, REQUEST))


def _revoke(text: str, words: Sequence[_Word]) -> RevokeGrantCommand | RevokeTargetCommand:
    if len(words) == 1:
        return RevokeGrantCommand(_id("g", words, REVOKE))
    if len(words) != 2:
        raise Refused(f"Write it like this: {REVOKE}")
    return RevokeTargetCommand(_mention(words, REVOKE), _name(words[1].text))


def _approve(text: str, words: Sequence[_Word]) -> ApproveCommand:
    return ApproveCommand(_id("q", words, APPROVE))


def _deny(text: str, words: Sequence[_Word]) -> DenyCommand:
    return DenyCommand(_id("q", words, DENY))


def _extend(text: str, words: Sequence[_Word]) -> ExtendCommand:
    grant, rest = _until("for", words, EXTEND)
    duration, rest = _until("because", rest, EXTEND)
    if not rest:
        raise Refused(f"A reason is needed. Write it like this: {EXTEND}")
    reason, crossing = _reason(text[rest[0].start :])
    if crossing:
        raise Refused(f"What is extended stays what it is. Write it like this: {EXTEND}")
    return ExtendCommand(_id("g", grant, EXTEND), parse_duration("".join(word.text for word in duration)), reason)


def _withdraw(text: str, words: Sequence[_Word]) -> WithdrawCommand:
    return WithdrawCommand(_id("q", words, WITHDRAW))


def _break_glass(text: str, words: Sequence[_Word]) -> BreakGlassCommand:
    return BreakGlassCommand(_wish(text, words, BREAK_GLASS))


def _sessions(text: str, words: Sequence[_Word]) -> SessionsCommand:
    _end(words, "/bastion sessions")
    return SessionsCommand()


def _who(text: str, words: Sequence[_Word]) -> WhoCommand:
    _end(words, "/bastion who")
    return WhoCommand()


def _link(text: str, words: Sequence[_Word]) -> LinkCommand:
    _end(words, "/bastion link")
    return LinkCommand()


def _help(text: str, words: Sequence[_Word]) -> HelpCommand:
    return HelpCommand()


_READERS: dict[str, Callable[[str, Sequence[_Word]], Command]] = {
    "grant": _grant,
    "request": _request,
    "revoke": _revoke,
    "approve": _approve,
    "deny": _deny,
    "extend": _extend,
    "withdraw": _withdraw,
    "break-glass": _break_glass,
    "sessions": _sessions,
    "who": _who,
    "link": _link,
    "help": _help,
}


def _mention(words: Sequence[_Word], form: str) -> Mention:
    if not words:
        raise Refused(f"Write it like this: {form}")
    if (match := _MENTION.fullmatch(words[0].text)) is not None:
        return Mention(match.group(1))
    if words[0].text.startswith("@"):
        raise Refused(
            f"{printable(words[0].text, 40)} is only a name, and names decide nothing here. Pick the person from the "
            "list that appears after @; if that does not help, the app has to turn on “Escape channels, users, and "
            "links”."
        )
    raise Refused(f"Mention the person first. Write it like this: {form}")


def _wish(text: str, words: Sequence[_Word], form: str) -> Wish:
    """``targets as logins … for duration because reason``, in this order; what narrows it is between logins and
    duration: `_narrower`.
    """
    targets, words = _until("as", words, form)
    logins, words = _until("for", words, form)
    duration, words = _until("because", words, form)
    if not words:
        raise Refused(f"A reason is needed. Write it like this: {form}")
    reason, crossing = _reason(text[words[0].start :])
    logins, narrower = _narrower(logins)
    span = parse_duration("".join(word.text for word in duration))
    return Wish(_names(targets), _names(logins), span, reason, crossing, **narrower)


def _narrower(words: Sequence[_Word]) -> tuple[Sequence[_Word], dict[str, Any]]:
    """The logins, and what a wish says besides; each clause once at most, in any order."""
    starts = [i for i, word in enumerate(words) if i and word.text.lower() in _CLAUSES]
    found: dict[str, Any] = {}
    for start, end in pairwise([*starts, len(words)]):
        keyword = words[start].text.lower()
        name, example, read = _CLAUSES[keyword]
        if start + 1 == end:
            raise Refused(f"{keyword.capitalize()} what? Write it like this: … as deploy {keyword} {example} for 2h …")
        if name in found:
            raise Refused(f"{name.capitalize()} are there twice. Write one of: with …, only …")
        found[name] = read(words[start + 1 : end])
    return (words[: starts[0]] if starts else words), found


def _more_actions(words: Sequence[_Word]) -> frozenset[Action]:
    return parse_actions(f"{MORE}{name.removeprefix(MORE)}" for name in _names(words))


def _only_actions(words: Sequence[_Word]) -> frozenset[Action]:
    return parse_actions(name.removeprefix(MORE) for name in _names(words))


def _network(words: Sequence[_Word]) -> Network:
    return parse_network(" ".join(plain(word.text) for word in words))


def _paths(words: Sequence[_Word]) -> frozenset[str]:
    """Paths with spaces or commas between them, their letters as they were typed."""
    return parse_paths(path for word in words for path in plain(word.text).split(",") if path)


_CLAUSES: dict[str, tuple[str, str, Callable[[Sequence[_Word]], Any]]] = {
    "with": ("actions", "ssh:agent", _more_actions),
    "only": ("actions", "ssh:exec", _only_actions),
    "within": ("paths", "/var/log/", _paths),
    "from": ("network", "192.0.2.0/24", _network),
}
"""What narrows a wish, by the word it begins with: the field of the wish, an example, and who reads it."""


def _until(keyword: str, words: Sequence[_Word], form: str) -> tuple[Sequence[_Word], Sequence[_Word]]:
    """The words before ``keyword``, at least one, and those after it."""
    for index, word in enumerate(words):
        if index and word.text.lower() == keyword:
            return words[:index], words[index + 1 :]
    raise Refused(f"“{keyword} …” is missing. Write it like this: {form}")


def _reason(text: str) -> tuple[str, bool]:
    """The reason without its quotes, and whether ``as crossing`` follows it."""
    rest = text.rstrip()
    crossing = re.search(r"\s(?:as\s+)?crossing$", rest[-30:], re.IGNORECASE)
    body = rest[: len(rest) - len(crossing.group())].rstrip() if crossing else rest
    closing = _QUOTES.get(rest[0])
    if closing is None:
        if crossing:
            raise Refused('Put the reason in quotes, so that “crossing” is not part of it: because "…" as crossing')
        return plain(rest), False
    if len(body) < 2 or body[-1] not in closing:
        raise Refused('The reason has no closing quote. Write it like this: because "what this is for"')
    return plain(body[1:-1]), crossing is not None


def _names(words: Sequence[_Word]) -> tuple[str, ...]:
    """Names with spaces or commas between them."""
    return tuple(name for word in words for name in _name(word.text).split(",") if name)


def _name(text: str) -> str:
    """A name as it was typed, where Slack made a link of it. A link whose label is something else stays a link."""
    if (match := _BRACKETED.fullmatch(text)) is None:
        return plain(text).lower()
    link = _LINK.fullmatch(match.group(1))
    if link is not None and match.group(2) in (None, link.group(1)):
        return link.group(1).lower()
    return text


def _id(kind: str, words: Sequence[_Word], form: str) -> str:
    if len(words) != 1:
        raise Refused(f"Write it like this: {form}")
    text = words[0].text.lower()
    if not _ID[kind].fullmatch(text):
        raise Refused(f"{printable(plain(words[0].text), 40)!r} is not an id. Write it like this: {form}")
    return text


def _end(words: Sequence[_Word], form: str) -> None:
    if words:
        raise Refused(f"Nothing comes after it: {form}")
