"""`faust`, but that the moment between its seek and its flow after partitions moved is a long one.

Faust empties the agents' queues at its end. A busy machine makes that moment long now and then; here it always is.
"""

import asyncio
import logging

from faust.cli.faust import cli

from streams.faust_batch.driver import BatchConsumer, BatchTransport

MOMENT_S = 0.3
log = logging.getLogger(__name__)


class SlowlyMoving(BatchConsumer):
    """The worker's consumer."""

    async def perform_seek(self) -> None:
        await super().perform_seek()
        await asyncio.sleep(MOMENT_S)
        if self._passed_over:
            log.warning("fetched in the moment: %d partitions", len(self._passed_over))


if __name__ == "__main__":
    BatchTransport.Consumer = SlowlyMoving
    cli()
