"""Create topics with their declared policy, and report where a cluster differs from it.

A worker that subscribes before a topic exists consumes nothing and logs little about it, and Faust declares no topic
that is only written to. Therefore every topic, including changelogs, is created here before a worker subscribes.
Existing topics are neither changed nor deleted.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError

from clients.kafka.connection import client_options, close_client, connect
from config import Settings
from config.sections import KafkaSettings
from marketdata.dead_letters import REPUBLISH_CONFIG, REPUBLISH_TOPIC
from marketdata.errors import ConfigurationError
from marketdata.topics import TopicRole

log = logging.getLogger(__name__)

CO_PARTITIONED = (TopicRole.TICKS, TopicRole.TICKS_CLEAN, TopicRole.FEATURES, TopicRole.DEAD_LETTERS)
"""Topics with the same number of partitions, because a record keeps its partition between them."""

# Small segments, compacted early: a worker without its data folder reads a changelog from the start.
CHANGELOG_CONFIG = {"cleanup.policy": "compact", "segment.bytes": str(16 << 20), "min.cleanable.dirty.ratio": "0.1"}

_ADMIN_TIMEOUT_MS = 10_000
_SYMBOLIC = {"-1": "forever"}


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """The declared form of a topic; `config` holds the broker's topic configuration."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between policy and cluster; `actual` is None if the topic is missing."""

    topic: str
    what: str
    declared: str
    actual: str | None

    @property
    def text(self) -> str:
        if self.actual is None:
            return f"{self.topic}: missing"
        return f"{self.topic}: {self.what} is {self.actual}, declared {self.declared}"


def declared(settings: Settings, changelogs: Iterable[str] = ()) -> list[TopicPolicy]:
    """Return the policy of every topic: those with a role, the republish records, and the changelogs.

    A changelog has as many partitions as its agent's source topic.
    """
    policies = []
    for role in TopicRole:
        topic = settings.topic(role)
        policies.append(TopicPolicy(topic.name, topic.partitions, topic.replication_factor, topic.config))
    policies.append(republish_policy(settings))
    kafka = settings.kafka
    policies += [
        TopicPolicy(name, kafka.partitions, kafka.replication_factor, dict(CHANGELOG_CONFIG)) for name in changelogs
    ]
    return policies


def republish_policy(settings: Settings) -> TopicPolicy:
    """Return the policy of the topic with the records of republished dead letters."""
    dead_letters = settings.topic(TopicRole.DEAD_LETTERS)
    return TopicPolicy(
        REPUBLISH_TOPIC.format(dead_letters.name), 1, dead_letters.replication_factor, dict(REPUBLISH_CONFIG)
    )


class TopicAdmin:
    """Describes the topics of a cluster and creates missing ones. An async context manager."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._client: AIOKafkaAdminClient

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerError: no broker answers.
        """
        options = client_options(self._kafka)
        self._client = await connect(
            self._kafka, lambda: AIOKafkaAdminClient(**options, request_timeout_ms=_ADMIN_TIMEOUT_MS)
        )
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await close_client(self._client)

    async def create(self, policies: Sequence[TopicPolicy]) -> list[str]:
        """Create missing topics; return the names of those created.

        Raises:
            ConfigurationError: the broker rejects one.
        """
        known = set(await self._client.list_topics())
        missing = [policy for policy in policies if policy.name not in known]
        if not missing:
            return []
        response = await self._client.create_topics(
            [
                NewTopic(policy.name, policy.partitions, policy.replication_factor, topic_configs=policy.config)
                for policy in missing
            ]
        )
        created = []
        for name, code, message, *_ in response.topic_errors:
            if code == 0:
                created.append(name)
            elif code != TopicAlreadyExistsError.errno:  # another worker created it first
                raise ConfigurationError(f"topic {name}: rejected by the broker: {message} (error {code})")
        await self._until_known([policy.name for policy in missing])
        return created

    async def partitions(self) -> dict[str, int]:
        """Return the number of partitions of each topic of the cluster."""
        return {topic["topic"]: len(topic["partitions"]) for topic in await self._client.describe_topics()}

    async def drift(self, policies: Sequence[TopicPolicy]) -> list[Drift]:
        """Return the differences between cluster and declared policy."""
        described = {topic["topic"]: topic for topic in await self._client.describe_topics()}
        present = [policy for policy in policies if policy.name in described]
        configs = await self._configs([policy.name for policy in present]) if present else {}
        found = []
        for policy in policies:
            if policy.name not in described:
                found.append(Drift(policy.name, "topic", "present", None))
                continue
            partitions = described[policy.name]["partitions"]
            actual: dict[str, str] = {
                "partitions": str(len(partitions)),
                "replication factor": str(len(partitions[0]["replicas"])),
                **configs[policy.name],
            }
            wanted = {
                "partitions": str(policy.partitions),
                "replication factor": str(policy.replication_factor),
                **policy.config,
            }
            found += [
                Drift(policy.name, what, _SYMBOLIC.get(value, value), actual.get(what, "unknown"))
                for what, value in wanted.items()
                if actual.get(what) != value
            ]
        return found

    async def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        found: dict[str, dict[str, str]] = {}
        for response in await self._client.describe_configs(resources):
            for _code, _message, _type, name, entries in response.resources:
                found[name] = {entry[0]: entry[1] for entry in entries}
        return found

    async def _until_known(self, names: Sequence[str], deadline_s: float = 10.0) -> None:
        """Wait until the brokers list new topics with their leaders, which takes a moment after creation."""

        def unknown(topics: list[Any]) -> set[str]:
            ready = {t["topic"] for t in topics if t["partitions"] and all(p["leader"] >= 0 for p in t["partitions"])}
            return set(names) - ready

        async with asyncio.timeout(deadline_s):
            while unknown(await self._client.describe_topics()):  # noqa: ASYNC110  brokers send no event
                await asyncio.sleep(0.05)


async def ensure(settings: Settings, changelogs: Sequence[str] = ()) -> None:
    """Create missing topics before a worker subscribes, and log where topics differ from their policy.

    Raises:
        ConfigurationError: no broker answers, a broker rejects a topic, or a changelog or a topic of `CO_PARTITIONED`
            has another number of partitions than declared; then nothing is created.
    """
    policies = declared(settings, changelogs)
    together = {settings.topic(role).name for role in CO_PARTITIONED} | set(changelogs)
    async with TopicAdmin(settings.kafka) as admin:
        _require_alike(await admin.drift(policies), together)
        created = await admin.create(policies)
        drift = await admin.drift(policies)
    if created:
        log.info("created topics: %s", ", ".join(created))
    _require_alike(drift, together)  # another worker may have created them with other settings
    for difference in drift:
        log.warning("topic drift: %s", difference.text)


def _require_alike(drift: Sequence[Drift], together: Collection[str]) -> None:
    wrong = [one.text for one in drift if one.what == "partitions" and one.topic in together]
    if wrong:
        raise ConfigurationError(
            f"{'; '.join(wrong)}: expected the same number of partitions on all topics of this application "
            "(kafka.partitions); recreate the topics or change the setting"
        )
