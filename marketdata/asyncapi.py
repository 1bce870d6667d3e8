"""docs/asyncapi.yaml: every topic with record, key, partitions and retention (AsyncAPI 3.0.0, Kafka bindings 0.5.0).

Made from `marketdata.topics` and `marketdata.records`; settings of a deployment may give topics other names and sizes.
"""

import inspect
from typing import Any

from marketdata.records import RECORDS, SCHEMA_VERSION
from marketdata.schemas import REFERENCE, schemas
from marketdata.topics import TOPICS, Topic, TopicRole

_BINDING = "0.5.0"
_ABOUT = """\
One JSON object a message, in UTF-8; every field is always present, null means unknown, numbers are finite. Times are
RFC 3339 in UTC with milliseconds, event time unless a field says otherwise; a message's own timestamp is the time of
arrival at the broker. The key is the market's symbol, so a market's messages are in order.

Names, partitions and retention are the defaults; settings can change them (docs/settings.md). Meaning and unit of each
field: docs/topics.md, docs/features.md. Made by `python -m marketdata --asyncapi`.
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


def document() -> dict[str, Any]:
    """The AsyncAPI document as plain JSON types."""
    records = [RECORDS[topic.record] for topic in TOPICS.values()]
    _, named = schemas(records)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Bitcoin DATA IA: topics", "version": f"{SCHEMA_VERSION}.0.0", "description": _ABOUT},
        "defaultContentType": "application/json",
        "channels": {topic.role.value: _channel(topic) for topic in TOPICS.values()},
        "operations": {f"publish_{topic.role.value}": _operation(topic) for topic in TOPICS.values()},
        "components": {"messages": {name: _message(name) for name in sorted({t.record for t in TOPICS.values()})}}
        | {"schemas": named},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    config = topic.config
    return {
        "address": topic.name,
        "title": topic.name,
        "description": f"Written by {_WRITERS[topic.role]}.",
        "messages": {topic.record: {"$ref": f"#/components/messages/{topic.record}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "replicas": topic.replication_factor,
                "topicConfiguration": {
                    "cleanup.policy": config["cleanup.policy"].split(","),
                    "retention.ms": topic.retention_ms,
                    "message.timestamp.type": config["message.timestamp.type"],
                },
                "bindingVersion": _BINDING,
            }
        },
    }


def _operation(topic: Topic) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{topic.role.value}"},
        "summary": f"Written by {_WRITERS[topic.role]}.",
    }


def _message(record: str) -> dict[str, Any]:
    key = "The key that the refused record had, if any." if record == "DeadLetter" else "The market's symbol, UTF-8."
    return {
        "name": record,
        "title": record,
        "summary": inspect.cleandoc(RECORDS[record].__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "payload": {"$ref": REFERENCE.format(name=record)},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": key, "examples": ["BTC-USD"]},
                "bindingVersion": _BINDING,
            }
        },
    }
