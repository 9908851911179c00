"""Host keys that targets announced while a configured key vouched for them: see docs/adr/0028.

What was learned is what the audit log says, so there is no second truth beside it: an event for each key that came or
went. A key counts while the key that vouched for it is configured, and ends with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.target import Target
from bastion.ports import Clock, Store

MAX_LEARNED = 4
"""Keys of one target beside the configured ones; a host that changes has two."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Learned:
    """A host key, and the configured one that vouched for it: OpenSSH public key lines without a comment."""

    line: str
    by: str


def counting(events: Sequence[Event], target: Target) -> list[Learned]:
    """What ``events`` of ``target``, in their order, leave to be trusted beside its configured keys."""
    learned: dict[str, Learned] = {}
    for event in events:
        line, by = str(event.details["key"]), str(event.details["by"])
        if event.kind is Kind.HOSTKEY_LEARNED:
            learned[line] = Learned(line, by)
        else:
            learned.pop(line, None)
    configured = {bare(line) for line in target.host_keys}
    return [key for key in learned.values() if key.by in configured and key.line not in configured]


def bare(line: str) -> str:
    """A public key line without its comment."""
    return " ".join(line.split()[:2])


class HostKeys:
    """Remembers what targets announce, on every node that has the same store."""

    def __init__(self, *, store: Store, clock: Clock, node: str) -> None:
        self._store = store
        self._clock = clock
        self._node = node
        self._settled: dict[str, frozenset[str]] = {}
        """What each target announced last, so that one that announces the same every time costs nothing."""

    async def learned(self, target: Target) -> list[Learned]:
        """Keys to trust beside the configured ones. Asked only when none of those was shown."""
        wanted = EventFilter(kind="hostkey:*", target=target.full_name)
        return counting(await self._store.events(wanted), target)

    async def announced(self, target: Target, lines: Collection[str], *, by: str, session_id: str) -> None:
        """``target`` has proven that it holds ``lines`` (PROTOCOL, section 2.5 of OpenSSH), on a connection on which it
        first proved the key ``by``; keys that it does not name any more are forgotten.

        Only what a *configured* key vouches for is learned, and only keys of a type that is configured: others are what
        every host has beside the one that was chosen.
        """
        configured = {bare(line) for line in target.host_keys}
        types = {line.split()[0] for line in configured}
        now = frozenset(line for line in map(bare, lines) if line.split()[0] in types and line not in configured)
        if by not in configured or self._settled.get(target.full_name) == now:
            return
        known = {key.line for key in await self.learned(target)}
        if len(now) > MAX_LEARNED:
            log.warning("target announces more host keys than are kept", target=target.full_name, keys=len(now))
            return
        for line in sorted(now - known):
            await self._write(Kind.HOSTKEY_LEARNED, target, {"key": line, "by": by}, session_id)
            log.warning("target has a new host key: put its line into host_keys", target=target.full_name, line=line)
        for line in sorted(known - now):
            await self._write(Kind.HOSTKEY_FORGOTTEN, target, {"key": line, "by": by}, session_id)
        self._settled[target.full_name] = now

    async def _write(self, kind: Kind, target: Target, details: Mapping[str, str], session_id: str) -> None:
        event = Event(
            kind=kind,
            at=self._clock.now(),
            node=self._node,
            scope=target.scope,
            target=target.full_name,
            session_id=session_id,
            details=dict(details),
        )
        async with self._store.transaction() as transaction:
            await transaction.append(event)
