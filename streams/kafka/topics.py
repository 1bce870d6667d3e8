"""Creating topics with their declared policy, and showing where a cluster differs from it.

A worker that subscribes before a topic exists consumes nothing and hardly says so, and a topic that is only sent to is
never declared by Faust: so every topic, changelogs too, is created here before a worker subscribes. It must never
change or delete a topic that exists.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from clients.kafka.connection import client_options, close_client
from config import Settings
from config.sections import KafkaSettings
from marketdata.dead_letters import NOTES_CONFIG, NOTES_TOPIC
from marketdata.errors import ConfigurationError
from marketdata.topics import TopicRole

log = logging.getLogger(__name__)

CO_PARTITIONED = (TopicRole.TICKS, TopicRole.TICKS_CLEAN, TopicRole.FEATURES, TopicRole.DEAD_LETTERS)
"""Topics between which a record keeps its partition."""

# Small segments, cleaned early: a worker without its data folder reads a changelog from its start.
CHANGELOG_CONFIG = {"cleanup.policy": "compact", "segment.bytes": str(16 << 20), "min.cleanable.dirty.ratio": "0.1"}

_ADMIN_TIMEOUT_MS = 10_000
_SYMBOLIC = {"-1": "for ever"}


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """What a topic must be: `config` holds the broker's own words."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between what is declared and what the cluster has; `actual` None: the topic is missing."""

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
    """Every topic of this deployment: those that have a role, the notes of letters sent back, and the changelogs.

    A changelog has as many partitions as the topics it goes with.
    """
    policies = []
    for role in TopicRole:
        topic = settings.topic(role)
        policies.append(TopicPolicy(topic.name, topic.partitions, topic.replication_factor, topic.config))
    policies.append(notes_policy(settings))
    kafka = settings.kafka
    policies += [
        TopicPolicy(name, kafka.partitions, kafka.replication_factor, dict(CHANGELOG_CONFIG)) for name in changelogs
    ]
    return policies


def notes_policy(settings: Settings) -> TopicPolicy:
    """The topic of the notes of letters that were sent back."""
    letters = settings.topic(TopicRole.DEAD_LETTERS)
    return TopicPolicy(NOTES_TOPIC.format(letters.name), 1, letters.replication_factor, dict(NOTES_CONFIG))


class TopicAdmin:
    """Asks one cluster about its topics and creates those that are missing. An async context manager."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._client = AIOKafkaAdminClient(**client_options(kafka), request_timeout_ms=_ADMIN_TIMEOUT_MS)
        self._brokers = kafka.brokers

    async def __aenter__(self) -> Self:
        try:
            await self._client.start()
        except (KafkaError, OSError) as error:
            await close_client(self._client)
            raise ConfigurationError(f"kafka.brokers: {self._brokers}: no broker answers: {error}") from error
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await close_client(self._client)

    async def create(self, policies: Sequence[TopicPolicy]) -> list[str]:
        """Create what is missing; the names of the topics that were.

        Raises:
            ConfigurationError: the broker refuses one.
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
            elif code != TopicAlreadyExistsError.errno:  # another worker was faster
                raise ConfigurationError(f"topic {name}: the broker refuses it: {message} (error {code})")
        await self._until_known([policy.name for policy in missing])
        return created

    async def partitions(self) -> dict[str, int]:
        """How many partitions each topic of the cluster has."""
        return {topic["topic"]: len(topic["partitions"]) for topic in await self._client.describe_topics()}

    async def drift(self, policies: Sequence[TopicPolicy]) -> list[Drift]:
        """Where the cluster differs from the declared policy."""
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
        """Brokers learn of a new topic a moment after it was created."""

        def unknown(topics: list[Any]) -> set[str]:
            ready = {t["topic"] for t in topics if t["partitions"] and all(p["leader"] >= 0 for p in t["partitions"])}
            return set(names) - ready

        async with asyncio.timeout(deadline_s):
            while unknown(await self._client.describe_topics()):  # noqa: ASYNC110  a broker has no event for it
                await asyncio.sleep(0.05)


async def ensure(settings: Settings, changelogs: Sequence[str] = ()) -> None:
    """Create what is missing before a worker subscribes, and log where topics differ from their policy.

    Raises:
        ConfigurationError: no broker answers, one refuses a topic, or topics that must have as many partitions as one
            another do not; nothing is created then.
    """
    policies = declared(settings, changelogs)
    together = {settings.topic(role).name for role in CO_PARTITIONED} | set(changelogs)
    async with TopicAdmin(settings.kafka) as admin:
        _require_alike(await admin.drift(policies), together)
        created = await admin.create(policies)
        drift = await admin.drift(policies)
    if created:
        log.info("created topics: %s", ", ".join(created))
    _require_alike(drift, together)  # another worker may have been faster, with other settings
    for difference in drift:
        log.warning("topic drift: %s", difference.text)


def _require_alike(drift: Sequence[Drift], together: Collection[str]) -> None:
    wrong = [one.text for one in drift if one.what == "partitions" and one.topic in together]
    if wrong:
        raise ConfigurationError(
            f"{'; '.join(wrong)}: topics of this application need as many partitions as one another "
            "(kafka.partitions); create them anew or change the setting"
        )
