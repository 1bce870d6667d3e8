"""A rebalance or recovery without progress ends the worker; one that advances does not."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from streams.worker import recovery_watch
from streams.worker.recovery_watch import Unchanged, progress_of, watch


def recovering(**changes: Any) -> Any:
    recovery = SimpleNamespace(active_offsets=Counter({"changelog-0": 5}), standby_offsets=Counter())
    app = {
        "rebalancing": False,
        "in_recovery": True,
        "consumer_generation_id": 1,
        "tables": SimpleNamespace(recovery=recovery),
    }
    return SimpleNamespace(**{**app, **changes})


def test_only_time_without_progress_counts() -> None:
    now = [0.0]
    watched = Unchanged(lambda: now[0])
    app = recovering()
    measured = []
    for at, offset in ((0, 5), (30, 5), (50, 6), (70, 6)):
        now[0] = float(at)
        app.tables.recovery.active_offsets["changelog-0"] = offset
        measured.append(watched.seconds(progress_of(app)))
    assert measured == [0.0, 30.0, 0.0, 20.0]


def test_a_worker_that_is_neither_rebalancing_nor_recovering_is_not_watched() -> None:
    now = [0.0]
    watched = Unchanged(lambda: now[0])
    assert watched.seconds(progress_of(recovering())) == 0.0
    now[0] = 50.0
    assert watched.seconds(progress_of(recovering(in_recovery=False))) == 0.0
    now[0] = 100.0
    assert watched.seconds(progress_of(recovering())) == 0.0  # a new one


@pytest.mark.parametrize("what", [{"rebalancing": True, "in_recovery": False}, {}])
async def test_a_stalled_worker_is_ended(what: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_watch, "_CHECK_S", 0.001)
    ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    app = recovering(**what, loop=asyncio.get_running_loop())
    task = asyncio.create_task(watch(app, 0.01, lambda stalled_s: ended.done() or ended.set_result(stalled_s)))
    assert await asyncio.wait_for(ended, 5) > 0.01
    task.cancel()
