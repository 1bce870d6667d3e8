"""Liveness considers consumer lag, from the first record on."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.faust_batch.driver import BatchConsumer
from streams.metrics import Metrics
from streams.worker import health

TICKS = TP("cryptoTopic", 0)


class Consumer(BatchConsumer):
    """Offsets as after a seek to `begun`, on a topic that ends at 10."""

    def __init__(self, begun: int) -> None:  # skips Faust's: nothing is connected
        self._handled, self._begun, self.sought_at = {}, {TICKS: begun}, 100.0

    def highwater(self, tp: TP) -> int:
        return 10 if tp == TICKS else 0

    def assignment(self) -> set[TP]:
        return {TICKS}


async def live(consumer: Consumer, now: float, *, recovering: bool = False) -> Any:
    pages: dict[str, Any] = {}

    def page(path: str, name: str) -> Any:
        assert path.endswith(name.rpartition("-")[2])
        return lambda handler: pages.setdefault(path, handler)

    state = SimpleNamespace(topics={"clean": TICKS.topic}, progress={}, positions={}, started_at=0.0, metrics=Metrics())
    app = SimpleNamespace(
        page=page,
        consumer=consumer,
        loop=SimpleNamespace(time=lambda: now),
        worker_state=state,
        rebalancing=False,
        in_recovery=recovering,
    )
    health.attach(app)
    view = SimpleNamespace(json=lambda document, status: (json.loads(json.dumps(document)), status))
    return await pages["/health/live"](view, None)


@pytest.mark.parametrize("handled", [None, 8])
async def test_lag_without_progress_is_a_stall_even_before_the_first_batch(handled: int | None) -> None:
    consumer = Consumer(begun=7)
    if handled is not None:
        consumer.handled(TICKS, handled)
    waiting = 3 if handled is None else 1
    assert await live(consumer, now=100.0 + health.STALLED_S) == ({"live": True, "stalled": {}}, 200)
    document, status = await live(consumer, now=101.0 + health.STALLED_S)
    assert (document["live"], status) == (False, 503)
    assert document["stalled"]["clean"].startswith(f"{waiting} records are waiting")


async def test_no_lag_and_recovery_are_no_stall() -> None:
    consumer = Consumer(begun=7)
    assert (await live(consumer, now=1_000.0, recovering=True))[1] == 200
    consumer.handled(TICKS, 9)
    assert (await live(consumer, now=1_000.0))[1] == 200
