"""The settings of Kafka in the words of aiokafka and of Faust.

It must never open a connection or read the environment.
"""

from typing import Any

from aiokafka.helpers import create_ssl_context
from yarl import URL

from config.sections import KafkaSettings


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes: brokers, SASL and TLS."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.brokers,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(kafka)
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = _password(kafka)
    return options


def broker_urls(kafka: KafkaSettings) -> list[URL]:
    """The brokers as Faust's URLs."""
    return [URL(f"kafka://{address.strip()}") for address in kafka.brokers.split(",") if address.strip()]


def credentials(kafka: KafkaSettings) -> Any:
    """Faust's credentials object, or None for PLAINTEXT."""
    import faust

    if kafka.security_protocol.startswith("SASL"):
        context = _ssl_context(kafka) if kafka.security_protocol == "SASL_SSL" else None
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=_password(kafka),
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    if kafka.security_protocol == "SSL":
        return faust.SSLCredentials(context=_ssl_context(kafka))
    return None


def _ssl_context(kafka: KafkaSettings) -> Any:
    return create_ssl_context(cafile=None if kafka.ssl_cafile is None else str(kafka.ssl_cafile))


def _password(kafka: KafkaSettings) -> str | None:
    return None if kafka.sasl_password is None else kafka.sasl_password.get_secret_value()
