"""docs/asyncapi.yaml: every topic with record, key, partitions and retention (AsyncAPI 3.0.0, Kafka bindings 0.5.0).

Made from `marketdata.topics` and `marketdata.records`; settings of a deployment may give topics other names and sizes.
"""

import inspect
from typing import Any

from marketdata.dead_letters import REPUBLISH_CONFIG, REPUBLISH_TOPIC, RepublishRecord
from marketdata.records import RECORDS, SCHEMA_VERSION
from marketdata.schemas import REFERENCE, schemas
from marketdata.topics import TOPICS, Topic, TopicRole

NOTES = "dead_letters_republished"
"""The channel of the topic that has no role: no setting names it, its name follows from the dead letters'."""

_BINDING = "0.5.0"
_ABOUT = """\
One JSON object a message, in UTF-8; every field is always present, null means unknown, numbers are finite. Times are
RFC 3339 in UTC with milliseconds, event time unless a field says otherwise; a message's own timestamp is the time of
arrival at the broker. The key is the market's symbol, so a market's messages are in order. The notes of letters that
were sent back are no records: they have no schema_version, and their key is the letter's id.

Names, partitions and retention are the defaults; settings can change them (docs/settings.md). Meaning and unit of each
field: docs/topics.md, docs/features.md. The worker's changelogs are its own and not told of here. Made by
`python -m marketdata --asyncapi`.
"""
_WRITERS = {
    TopicRole.TICKS: "the collector and the feed, at least once (`tick_id` tells repeats)",
    TopicRole.TICKS_CLEAN: "the clean agent, each tick once",
    TopicRole.CANDLES: "the collector, each minute of a market once; at times out of order",
    TopicRole.DEAD_LETTERS: "the agents, whatever they refuse",
    TopicRole.FEATURES: "the features agent; a higher `revision` replaces the row of the same symbol and timestamp",
    TopicRole.PREDICTIONS: "forecasting, each prediction once",
    TopicRole.PREDICTION_SCORES: "forecasting, each score once",
}
_NOTES_WRITER = "`dead-letters republish`, before it sends a letter back and after"
_KEYS = {
    "DeadLetter": ("The key that the refused record had, if any.", "BTC-USD"),
    "RepublishRecord": (
        "The letter's id: `topic-partition@offset#hash` of the original.",
        "cryptoTopic-1@5#2d711642b726",
    ),
}


def document() -> dict[str, Any]:
    """The AsyncAPI document as plain JSON types."""
    _, named = schemas([*(RECORDS[topic.record] for topic in TOPICS.values()), RepublishRecord])
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Bitcoin DATA IA: topics", "version": f"{SCHEMA_VERSION}.0.0", "description": _ABOUT},
        "defaultContentType": "application/json",
        "channels": {topic.role.value: _channel(topic) for topic in TOPICS.values()} | {NOTES: _notes_channel()},
        "operations": {f"publish_{topic.role.value}": _operation(topic) for topic in TOPICS.values()}
        | {f"publish_{NOTES}": _published(NOTES, _NOTES_WRITER)},
        "components": {
            "messages": {name: _message(name, RECORDS[name]) for name in sorted({t.record for t in TOPICS.values()})}
            | {RepublishRecord.__name__: _message(RepublishRecord.__name__, RepublishRecord)},
            "schemas": named,
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    config = topic.config
    configuration = {
        "cleanup.policy": config["cleanup.policy"].split(","),
        "retention.ms": topic.retention_ms,
        "message.timestamp.type": config["message.timestamp.type"],
    }
    return _addressed(topic, topic.record, _WRITERS[topic.role], topic.name, topic.partitions, configuration)


def _notes_channel() -> dict[str, Any]:
    letters = TOPICS[TopicRole.DEAD_LETTERS]
    configuration = {"cleanup.policy": REPUBLISH_CONFIG["cleanup.policy"].split(",")}
    return _addressed(
        letters, RepublishRecord.__name__, _NOTES_WRITER, REPUBLISH_TOPIC.format(letters.name), 1, configuration
    )


def _addressed(
    like: Topic, message: str, writer: str, name: str, partitions: int, configuration: dict[str, Any]
) -> dict[str, Any]:
    return {
        "address": name,
        "title": name,
        "description": f"Written by {writer}.",
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {
            "kafka": {
                "topic": name,
                "partitions": partitions,
                "replicas": like.replication_factor,
                "topicConfiguration": configuration,
                "bindingVersion": _BINDING,
            }
        },
    }


def _operation(topic: Topic) -> dict[str, Any]:
    return _published(topic.role.value, _WRITERS[topic.role])


def _published(channel: str, writer: str) -> dict[str, Any]:
    return {"action": "send", "channel": {"$ref": f"#/channels/{channel}"}, "summary": f"Written by {writer}."}


def _message(name: str, record: type[Any]) -> dict[str, Any]:
    key, example = _KEYS.get(name, ("The market's symbol, UTF-8.", "BTC-USD"))
    return {
        "name": name,
        "title": name,
        "summary": inspect.cleandoc(record.__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "payload": {"$ref": REFERENCE.format(name=name)},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": key, "examples": [example]},
                "bindingVersion": _BINDING,
            }
        },
    }
