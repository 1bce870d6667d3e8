"""The state of one worker that its commands, pages and agents share."""

from dataclasses import dataclass, field

from streams.metrics import Metrics
from streams.sources.registry import Exchanges


@dataclass(slots=True)
class WorkerState:
    """Shared by the parts of one worker.

    topics: name of each agent to its source topic. changelogs: topic names of the tables. progress: name of each agent
    to the event loop's time of its last batch, in seconds. started_at: the event loop's time, in seconds.
    """

    metrics: Metrics
    exchanges: Exchanges
    topics: dict[str, str] = field(default_factory=dict)
    changelogs: list[str] = field(default_factory=list)
    progress: dict[str, float] = field(default_factory=dict)
    started_at: float = 0.0
