"""The pages `/metrics`, `/health/live` and `/health/ready` of a worker.

Live: no agent has lag without progress. Ready: partitions are assigned and the tables are recovered.
"""

from typing import Any

from faust.exceptions import ConsumerNotStarted
from prometheus_client import CONTENT_TYPE_LATEST

STALLED_S = 60.0  # real seconds without a batch while there is lag
_UNAVAILABLE = 503


def liveness(lags: dict[str, int], idle_s: dict[str, float]) -> dict[str, str]:
    """Return the stalled agents and why: there is lag, and no batch was handled for `STALLED_S`.

    Args:
        lags: agent to its lag, in records.
        idle_s: agent to the real seconds since its last batch.
    """
    return {
        agent: f"{lag} records are waiting and none was handled for {idle_s[agent]:.0f} s"
        for agent, lag in lags.items()
        if lag > 0 and idle_s.get(agent, 0.0) > STALLED_S
    }


def _assigned(app: Any) -> set[Any]:
    """Return the worker's partitions; none before its consumer has started, because the web server starts earlier."""
    try:
        return set(app.consumer.assignment())
    except ConsumerNotStarted:
        return set()


def attach(app: Any) -> None:
    """Add the pages to the web server of a `StreamsApp`."""

    def waiting() -> dict[str, dict[int, int]]:
        """Return each agent's lag in records, by partition."""
        assigned = _assigned(app)
        return {
            name: {tp.partition: app.consumer.unhandled(tp) for tp in assigned if tp.topic == topic}
            for name, topic in app.worker_state.topics.items()
        }

    def lags() -> dict[str, int]:
        return {name: sum(by_partition.values()) for name, by_partition in waiting().items()}

    def idle(name: str) -> float:
        """Return real seconds since the agent's last batch, or since it could start."""
        began: float = max(app.worker_state.started_at, app.consumer.sought_at)
        return float(app.loop.time() - max(began, app.worker_state.progress.get(name, began)))

    @app.page("/metrics", name="metrics")
    async def metrics(view: Any, _request: Any) -> Any:
        current = app.worker_state.metrics
        current.agent_lag.clear()  # removes revoked partitions
        for name, by_partition in waiting().items():
            current.lags(name, app.worker_state.topics[name], by_partition)
        return view.bytes(current.exposition(), content_type=CONTENT_TYPE_LATEST.split(";")[0])

    @app.page("/health/live", name="health-live")
    async def live(view: Any, _request: Any) -> Any:
        # During recovery and rebalances nothing is handled; `ready` reports that.
        moving = app.rebalancing or app.in_recovery
        wrong = {} if moving else liveness(lags(), {name: idle(name) for name in app.worker_state.topics})
        return view.json({"live": not wrong, "stalled": wrong}, status=_UNAVAILABLE if wrong else 200)

    @app.page("/health/ready", name="health-ready")
    async def ready(view: Any, _request: Any) -> Any:
        waiting = [
            what
            for what, is_so in (
                ("a rebalance", app.rebalancing),
                ("the tables' recovery", app.in_recovery),
                ("an assignment", not _assigned(app)),
            )
            if is_so
        ]
        return view.json({"ready": not waiting, "waiting_for": waiting}, status=_UNAVAILABLE if waiting else 200)
