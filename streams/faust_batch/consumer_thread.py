"""The thread of Faust's consumer: fetch sizes, and the watch over group membership.

Names with an underscore belong to Faust and aiokafka (see `streams.faust_batch.driver`).
"""

import time
from typing import Any

from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from streams.worker.recovery_watch import Unchanged
from streams.worker.shutdown import exit_at_once

GATHER_MS = 40
MIN_FETCH_BYTES = 1 << 20  # of all partitions together; a backlog reaches it at once
_WATCH_S = 1.0
MISSING_S = 15.0
"""Real seconds for which a subscribed topic must be missing: a broker that starts may not know all topics at once."""


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread with larger fetches and a membership watch.

    The broker answers a fetch after `MIN_FETCH_BYTES` or `gather_ms` (real ms), whichever comes first. Faust asks for
    whatever is available. aiokafka prefetches once per poll, so small responses make small batches, and records that
    arrive after a response wait until the poll after the next one.
    """

    def __init__(self, *args: Any, gather_ms: int = GATHER_MS, **kwargs: Any) -> None:
        self._gather_ms = gather_ms
        super().__init__(*args, **kwargs)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer: Any = super()._create_worker_consumer(transport)
        # Faust has no settings for these
        consumer._fetch_min_bytes = MIN_FETCH_BYTES  # noqa: SLF001
        consumer._fetch_max_wait_ms = self._gather_ms  # noqa: SLF001
        return consumer

    @Service.task
    async def _watch_membership(self) -> None:
        """Stop the worker when it cannot rejoin its group, because it would keep partitions without handling them.

        Also end it when a topic that it reads was deleted: it would wait for records of no partition, in silence.

        After an error aiokafka stops joining until `check_errors` is called; after an unknown error it never retries.
        """
        missing = Unchanged(time.monotonic)
        while not self.should_stop:
            await self.sleep(_WATCH_S)
            consumer: Any = self._consumer
            if missing.seconds(topics := missing_topics(consumer)) > MISSING_S:
                exit_at_once(f"topics deleted while the worker was running ({topics}); its next start creates them")
            coordinator = consumer._coordinator  # noqa: SLF001
            try:
                coordinator.check_errors()
            except KafkaError as error:
                if coordinator._coordination_task.done():  # noqa: SLF001
                    self.log.error("stopping the worker: it lost its group membership: %s", error)  # noqa: TRY400
                    self.parent_loop.call_soon_threadsafe(self._crash_app, error)
                    return
                self.log.warning("joining the group failed, retrying: %s", error)

    def _crash_app(self, error: Exception) -> None:
        self.consumer.add_future(self.app.crash(error))

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: Faust's check expects single messages, and reports a newly assigned partition as stalled.

        `streams.worker.health` reports stalled agents instead.
        """


def missing_topics(consumer: Any) -> str | None:
    """Return the subscribed topics that the brokers do not have, by the newest metadata; None if there are none."""
    cluster = consumer._client.cluster  # noqa: SLF001
    missing = [topic for topic in sorted(consumer.subscription()) if not cluster.partitions_for_topic(topic)]
    return ", ".join(missing) or None
