"""After a crash: what a node that died left open is closed, before it listens again."""

from __future__ import annotations

import structlog

from bastion.core.audit import Event, Kind
from bastion.core.errors import NotFound, Unavailable
from bastion.core.session import End
from bastion.ports import Clock, Recordings, Store

log = structlog.get_logger(__name__)


async def recover(*, store: Store, recordings: Recordings, node: str, clock: Clock) -> int:
    """End this node's sessions that have no end as `End.INTERRUPTED`; how many there were.

    Raises:
        Unavailable: the store cannot be written; the node must not start.
    """
    left = await store.sessions_of_node(node)
    for session in left:
        reasons: tuple[str, ...] = (End.INTERRUPTED.sentence,)
        try:
            recordings.seal_interrupted(session)
        except (NotFound, Unavailable) as error:
            log.error("recording could not be sealed", session=session.id, error=str(error))
            reasons = (*reasons, error.public)
        now = clock.now()
        async with store.transaction() as transaction:
            await transaction.end_session(session.id, End.INTERRUPTED, now)
            await transaction.append(
                Event(
                    kind=Kind.SESSION_INTERRUPTED,
                    at=now,
                    node=node,
                    identity=session.identity,
                    display=session.display,
                    scope=session.scope,
                    target=session.target,
                    login=session.login,
                    address=session.address,
                    country=session.country,
                    grant_id=session.grant_id,
                    session_id=session.id,
                    reasons=reasons,
                )
            )
    return len(left)
