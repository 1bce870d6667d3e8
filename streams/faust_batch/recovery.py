"""Recovery of the tables: a local copy that its changelog does not contain is set aside and rebuilt.

A changelog that was recreated, or lost its end with a disk, ends before the offset that the local copy has stored.
Faust stops the worker then, at every start. It also treats a step of the recovery whose request timed out as done, so
that a table without its newest changes would count as recovered: here a step has no timeout of its own, and
`streams.worker.recovery_watch` ends a worker whose recovery makes no progress.

Names with an underscore belong to Faust (see `streams.faust_batch.driver`).
"""

import logging
from collections import Counter
from typing import Any, cast

from faust.tables import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP

log = logging.getLogger(__name__)


class BatchRecovery(Recovery):
    """Faust's recovery of `BatchTable`s, which sets local copies aside that are ahead of their changelog."""

    logger = logging.getLogger("faust.tables.recovery")  # Faust's messages appear under Faust's name

    async def _build_offsets(self, consumer: Any, tps: set[TP], destination: Counter[TP], title: str) -> None:
        await self._set_aside_ahead(consumer, tps, destination)
        await super()._build_offsets(consumer, tps, destination, title)

    async def _set_aside_ahead(self, consumer: Any, tps: set[TP], offsets: Counter[TP]) -> None:
        stored = {tp: offset for tp in sorted(tps) if (offset := offsets[tp]) is not None}
        if not stored:
            return
        ends, starts = await consumer.highwaters(*stored), await consumer.earliest_offsets(*stored)
        for tp, offset in stored.items():
            if offset < (ends[tp] or 0):
                continue
            table: Any = self.tp_to_table[tp]
            log.warning(
                "table %s, partition %d: the local copy is at offset %d, but its changelog %s has the offsets %d to %d"
                " (exclusive): %s; it is rebuilt from the changelog",
                table.name,
                tp.partition,
                offset,
                tp.topic,
                starts[tp] or 0,
                ends[tp] or 0,
                table.set_aside(tp.partition),
            )
            for other in tps if table.in_memory else (tp,):
                if self.tp_to_table[other] is table:
                    offsets[other] = cast("int", None)  # Faust's value for a copy without an offset

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ARG002, ASYNC109  Faust's signature
        await super()._wait(coro)


class BatchTableManager(TableManager):
    """Faust's table manager with `BatchRecovery`."""

    logger = logging.getLogger("faust.tables.manager")  # Faust's messages appear under Faust's name

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = BatchRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
