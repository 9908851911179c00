"""Who writes, in which order, and what becomes durable together.

One block writes at a time. Blocks that wait for their turn while another writes share its COMMIT, because a COMMIT
waits for the disk and a statement does not: each block after the first is a savepoint in the batch's transaction, and
every block is left only when that transaction is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import Executable, text

from bastion.adapters.store.engines import Engine, Pen
from bastion.adapters.store.failures import translated
from bastion.adapters.store.rows import Values
from bastion.adapters.store.statements import Answer
from bastion.core.errors import BastionError, Conflict, Unavailable

T = TypeVar("T")

_MARK, _UNDO = text("SAVEPOINT block"), text("ROLLBACK TO SAVEPOINT block")
"""The latest savepoint of a name hides those before it; COMMIT releases all, so a block that is kept says nothing."""


class Writer:
    """Lets one block write at a time, first come, first served."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None
        self._batch: Batch | None = None
        self._closed = False

    @asynccontextmanager
    async def block(self) -> AsyncIterator[Block]:
        """Write. When it is left without an error, everything in it is durable.

        A block keeps every other waiting, so it waits for nothing but the store. One that is cancelled after its last
        statement, while its batch is being committed, may have been kept.

        Raises:
            Unavailable: the store cannot be written; nothing of the block was kept, unless the connection was lost
                during the COMMIT itself, which nobody can tell apart.
        """
        if self._writing is asyncio.current_task():
            raise RuntimeError("a transaction inside a transaction would wait for itself")
        async with self._turn:
            self._writing = asyncio.current_task()
            try:
                batch = self._joined()
                async with batch.block() as block:
                    yield block
            finally:
                self._writing = None
        await batch.settled()

    async def close(self) -> None:
        """Let the batch under way finish; afterwards every block is refused."""
        async with self._turn:
            self._closed = True
            batch = self._batch
        if batch is not None:
            await asyncio.wait({batch.task})

    def _joined(self) -> Batch:
        """The open batch, or a new one. One that failed is joined too: who waited with it would wait again in vain."""
        if self._closed:
            raise Unavailable("The store is closed: this bastion is stopping.")
        if self._batch is None:
            self._batch = Batch()
            self._batch.task = asyncio.create_task(self._carry(self._batch))
        return self._batch

    async def _carry(self, batch: Batch) -> None:
        """The life of one batch. It queues for its turn as a block does, so whoever queued before belongs to it."""
        try:
            await batch.begin(self._engine)
        finally:
            async with self._turn:
                self._batch = None
                await batch.commit(self._engine)


class Batch:
    """One transaction of the database, and the blocks that are kept or lost with it."""

    task: asyncio.Task[None]
    """Carries the batch from BEGIN to COMMIT, so that no caller's cancellation can end it half way."""

    _pen: Pen

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._is_empty = True
        self._failure: BastionError | None = Unavailable("The store could not begin to write.")

    async def begin(self, engine: Engine) -> None:
        try:
            with translated():
                self._pen = await engine.pen()
                await self._pen.begin()
            self._failure = None
        except BastionError as failure:
            self._failure = failure
        finally:
            self._begun.set()

    async def commit(self, engine: Engine) -> None:
        try:
            if self._failure is None:
                with translated():
                    engine.check()
                    await self._pen.commit()
        except BastionError as failure:
            self._failure = failure
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Give the connection back; after a failure nobody knows its state, so it is closed, which rolls back."""
        if not hasattr(self, "_pen"):
            return
        with suppress(Unavailable), translated():
            await self._pen.put_down(broken=self._failure is not None)

    async def settled(self) -> None:
        """Return when everything that was written is durable.

        Raises:
            Unavailable: it is not.
        """
        await asyncio.shield(self.task)
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise Unavailable(self._failure.public, detail="so for the whole batch") from self._failure

    @asynccontextmanager
    async def block(self) -> AsyncIterator[Block]:
        """Everything in it, or nothing of it."""
        await self._begun.wait()
        self._check()
        block = Block(self)
        is_first, self._is_empty = self._is_empty, False
        try:
            if not is_first:
                await self.run(_MARK)
            try:
                yield block
            finally:
                block.end()
            block.check()
        except BaseException:
            await self._undo(is_first)
            raise

    async def _undo(self, is_first: bool) -> None:
        """Forget the latest block; the first has no mark, for there is nothing else to keep."""
        if self._failure is not None:
            return  # all of it is lost already
        with suppress(Unavailable):
            if is_first:
                await _to_the_end(self._begin_again())
            else:
                await self.run(_UNDO)

    async def _begin_again(self) -> None:
        with self._spoiled():
            await self._pen.rollback()
            await self._pen.begin()
        self._is_empty = True

    async def run(self, statement: Executable, values: Values | None = None) -> Answer:
        """Run one statement to its end, even when the caller is cancelled meanwhile.

        A cancelled statement costs its connection, and with it all the others in this batch: somebody who hangs up in
        the right moment must not be able to do that to them.
        """
        running = asyncio.ensure_future(self._pen.run(statement, values))
        try:
            with self._spoiled():
                return await asyncio.shield(running)
        except asyncio.CancelledError:
            await _done(running)
            with suppress(BastionError), self._spoiled():
                running.result()  # what went wrong meanwhile concerns the others
            raise

    @contextmanager
    def _spoiled(self) -> Iterator[None]:
        try:
            with translated():
                yield
        except Unavailable as failure:
            # SQLite may have rolled back on its own already, and would commit what follows statement by statement.
            self._failure = failure
            raise


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    running = asyncio.create_task(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await _done(running)
        raise


async def _done(running: asyncio.Future[Any]) -> None:
    """Wait, whoever is cancelled meanwhile."""
    while not running.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({running})


class Block:
    """One caller's hold of the one writing connection; useless when the block is over."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._failure: BastionError | None = None
        self._over = False

    async def run(self, statement: Executable, values: Values | None = None) -> Answer:
        """Run one statement.

        Raises:
            Conflict: a constraint held.
            Unavailable: the database failed.

        After either nothing of the block will be kept, whatever it does next: PostgreSQL has given it up.
        """
        if self._over:
            raise RuntimeError("this transaction is over")
        self.check()
        try:
            return await self._batch.run(statement, values)
        except (Conflict, Unavailable) as failure:
            self._failure = failure
            raise

    def end(self) -> None:
        """No more statements, however the block ended."""
        self._over = True

    def check(self) -> None:
        """A block that went on after a failure is not left as if nothing had happened.

        Raises:
            Conflict, Unavailable: what a statement of this block raised.
        """
        if self._failure is not None:
            raise self._failure
