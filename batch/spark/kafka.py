"""Kafka as Spark's connector wants it told: brokers and security in its own option names, and topics that exist."""

import logging
from collections.abc import Sequence
from typing import Any

import stamina
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from config.sections import KafkaSettings
from marketdata.errors import StorageError

_log = logging.getLogger(__name__)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def client_properties(kafka: KafkaSettings) -> dict[str, str]:
    """Java client properties of the settings."""
    properties = {"bootstrap.servers": kafka.brokers, "security.protocol": kafka.security_protocol}
    if kafka.ssl_cafile is not None:
        properties |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(kafka.ssl_cafile)}
    if kafka.security_protocol.startswith("SASL"):
        module = "plain.PlainLoginModule" if kafka.sasl_mechanism == "PLAIN" else "scram.ScramLoginModule"
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else ""
        properties |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.jaas.config": (
                f"org.apache.kafka.common.security.{module} required "
                f'username="{_quoted(kafka.sasl_username or "")}" password="{_quoted(password)}";'
            ),
        }
    return properties


def kafka_options(kafka: KafkaSettings) -> dict[str, str]:
    """The same as options of Spark's Kafka source."""
    # Every micro-batch reads each partition to its end. A fetch that finds nothing more waits there for the client's
    # default of 500 ms, and the next batch's fetch waits behind it: half a second a partition and batch.
    properties = {**client_properties(kafka), "fetch.max.wait.ms": "20"}
    return {f"kafka.{name}": value for name, value in properties.items()}


def wait_for_topics(spark: SparkSession, kafka: KafkaSettings, names: Sequence[str], wait_s: float) -> None:
    """Wait until the topics exist.

    Raises:
        StorageError: one does not within `wait_s`, or no broker answers.
    """
    jvm: Any = spark._jvm  # noqa: SLF001  the connector's own Kafka client is asked
    properties = jvm.java.util.Properties()
    for key, value in client_properties(kafka).items():
        properties.setProperty(key, value)
    properties.setProperty("default.api.timeout.ms", "5000")
    properties.setProperty("request.timeout.ms", "4000")
    client = jvm.org.apache.kafka.clients.admin.AdminClient.create(properties)
    try:
        for attempt in stamina.retry_context(
            on=(StorageError, Py4JJavaError), attempts=None, timeout=wait_s, wait_initial=0.2, wait_max=1.0
        ):
            with attempt:
                there = client.listTopics().names().get()
                missing = [name for name in names if not there.contains(name)]
                if missing:
                    if attempt.num == 2:  # noqa: PLR2004  the second try is the first wait
                        _log.info("waiting for topics %s", ", ".join(missing))
                    msg = f"topics {', '.join(missing)}: not on {kafka.brokers} after {wait_s:g} s; start the streams"
                    raise StorageError(msg)
    except Py4JJavaError as error:
        why = str(error.java_exception.toString()).splitlines()[0]
        msg = f"kafka.brokers: {kafka.brokers}: no answer after {wait_s:g} s: {why}"
        raise StorageError(msg) from error
    finally:
        client.close()
