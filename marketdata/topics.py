"""The Kafka topics: the only definition of their names and policies.

Every topic uses LogAppendTime: a broker deletes by a record's timestamp, so replayed history with its original
timestamps would be deleted within minutes. The event time is a field of the record.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


class TopicRole(StrEnum):
    """The purpose of a topic, whatever its name in the settings."""

    TICKS = "ticks"
    TICKS_CLEAN = "ticks_clean"
    CANDLES = "candles"
    DEAD_LETTERS = "dead_letters"
    FEATURES = "features"
    PREDICTIONS = "predictions"
    PREDICTION_SCORES = "prediction_scores"
    PART_STATUS = "part_status"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is created. `retention_ms` counts from arrival at the broker; -1: unlimited.

    compacted: the broker keeps the newest record of each key only; its small segments are read whole at each start.
    """

    role: TopicRole
    name: str
    record: str
    retention_ms: int
    partitions: int = 4
    replication_factor: int = 1
    compacted: bool = False

    def deployed(self, *, name: str, partitions: int, replication_factor: int, retention_ms: int) -> "Topic":
        """Return the topic with the name, size and retention of one deployment."""
        return replace(
            self, name=name, partitions=partitions, replication_factor=replication_factor, retention_ms=retention_ms
        )

    @property
    def config(self) -> dict[str, str]:
        """The topic configuration at the broker."""
        compaction = {"segment.bytes": str(1 << 20), "min.cleanable.dirty.ratio": "0.1"} if self.compacted else {}
        return {
            "cleanup.policy": "compact,delete" if self.compacted else "delete",
            "retention.ms": str(self.retention_ms),
            "message.timestamp.type": "LogAppendTime",
            **compaction,
        }


def _topic(role: TopicRole, name: str, record: str, days: int, *, compacted: bool = False) -> Topic:
    return Topic(role, name, record, days * _DAY_MS if days >= 0 else -1, compacted=compacted)


TOPICS: dict[TopicRole, Topic] = {
    topic.role: topic
    for topic in (
        _topic(TopicRole.TICKS, "cryptoTopic", "Tick", 14),
        _topic(TopicRole.TICKS_CLEAN, "ticks-clean", "Tick", 14),
        _topic(TopicRole.CANDLES, "candles", "Candle", 14),
        _topic(TopicRole.DEAD_LETTERS, "dead-letters", "DeadLetter", 90),
        _topic(TopicRole.FEATURES, "features", "FeatureRow", 7),
        _topic(TopicRole.PREDICTIONS, "predictions", "Prediction", -1),
        _topic(TopicRole.PREDICTION_SCORES, "prediction-scores", "Score", -1),
        _topic(TopicRole.PART_STATUS, "part-status", "PartStatus", 30, compacted=True),
    )
}
