"""The thread in which Faust's consumer lives: how it fetches, and whether it is a member of its group.

Names with an underscore belong to Faust and aiokafka (see `streams.faust_batch.driver`). It must never import a record.
"""

from typing import Any

from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

MANY_BYTES = 1 << 20  # of all partitions together; a backlog has them at once
_WATCH_S = 1.0


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's, but that the broker gathers records for a fetch: until there are many, or for `gather_ms` at most.

    Faust asks for whatever is there. aiokafka fetches ahead of a poll and not again before it, so small answers make
    small batches, and what comes in after an answer lies until the poll after the next.
    """

    gather_ms: int = 40

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer: Any = super()._create_worker_consumer(transport)
        # Faust hands on no settings for these.
        consumer._fetch_min_bytes = MANY_BYTES  # noqa: SLF001
        consumer._fetch_max_wait_ms = self.gather_ms  # noqa: SLF001
        return consumer

    @Service.task
    async def _watch_membership(self) -> None:
        """End the worker when it can join its group no more: its partitions would stay with it, and nobody handle them.

        aiokafka stops joining at an error until somebody asks for it, and for ever at one that it does not know.
        """
        while not self.should_stop:
            await self.sleep(_WATCH_S)
            consumer: Any = self._consumer
            coordinator = consumer._coordinator  # noqa: SLF001
            try:
                coordinator.check_errors()
            except KafkaError as error:
                if coordinator._coordination_task.done():  # noqa: SLF001
                    self.log.error("the worker ends: it is no member of its group any more: %s", error)  # noqa: TRY400
                    self.parent_loop.call_soon_threadsafe(self._crash_app, error)
                    return
                self.log.warning("joining the group: %s; tried again", error)

    def _crash_app(self, error: Exception) -> None:
        self.consumer.add_future(self.app.crash(error))

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust's own alarm looks at single messages, and calls a partition that has just come a hung one.

        Whether a worker gets on is told by `streams.worker.health`.
        """
