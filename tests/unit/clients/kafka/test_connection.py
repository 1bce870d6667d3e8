"""Options of Kafka's clients from the settings, and closing those that never saw a broker."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from clients.kafka.connection import client_options, close_client, connect, start_producer
from config.sections import KafkaSettings
from devstack.health import kafka_problem
from marketdata.errors import BrokerError, ConfigurationError
from streams.kafka.faust_options import credentials
from tests.support.stack import free_ports

SECURED = KafkaSettings(
    brokers="a:1,b:2",
    security_protocol="SASL_SSL",
    sasl_mechanism="SCRAM-SHA-512",
    sasl_username="me",
    sasl_password="secret",
)


def test_every_word_of_sasl_and_tls_reaches_the_client() -> None:
    options = client_options(SECURED)
    assert isinstance(options.pop("ssl_context"), ssl.SSLContext)
    assert options == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "me",
        "sasl_plain_password": "secret",
    }
    assert client_options(KafkaSettings(brokers="a:1")) == {
        "bootstrap_servers": "a:1",
        "security_protocol": "PLAINTEXT",
    }


def test_faust_is_told_the_same() -> None:
    found = credentials(SECURED)
    assert (found.username, found.password, found.mechanism.value) == ("me", "secret", "SCRAM-SHA-512")
    assert isinstance(found.ssl_context, ssl.SSLContext)
    assert credentials(KafkaSettings()) is None


async def test_certificates_that_cannot_be_read_are_one_clear_line(tmp_path: Path) -> None:
    none = KafkaSettings(security_protocol="SSL", ssl_cafile=tmp_path / "none.pem")
    with pytest.raises(ConfigurationError, match=r"kafka\.ssl_cafile: .*none\.pem: expected certificates in PEM"):
        client_options(none)


@pytest.mark.parametrize("make", [AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient, AIOKafkaClient])
async def test_a_client_that_found_no_broker_is_closed(make: Any) -> None:
    (port,) = free_ports(1)
    settings = KafkaSettings(brokers=f"127.0.0.1:{port}")
    client = make(**client_options(settings))
    with pytest.raises(KafkaError):
        await (client.bootstrap() if isinstance(client, AIOKafkaClient) else client.start())
    await close_client(client)
    await close_client(client)
    assert await kafka_problem(settings) == "does not listen"


async def test_a_broker_that_does_not_answer_in_time_is_one_clear_line() -> None:
    (port,) = free_ports(1)
    kafka = KafkaSettings(brokers=f"127.0.0.1:{port}")
    attempts: list[AIOKafkaConsumer] = []

    def create() -> AIOKafkaConsumer:
        attempts.append(AIOKafkaConsumer(**client_options(kafka)))
        return attempts[-1]

    with pytest.raises(BrokerError, match=rf"^kafka\.brokers: 127\.0\.0\.1:{port}: no broker answers: "):
        await connect(kafka, create)
    assert len(attempts) == 1
    with pytest.raises(BrokerError, match=r"no broker answers within 0\.6 s: "):
        await connect(kafka, create, wait_s=0.6)
    assert len(attempts) >= 3
    assert all(consumer._closed for consumer in attempts)
    with pytest.raises(BrokerError, match="no broker answers"):
        await start_producer(kafka)
