"""The settings of Kafka in the words of Faust.

It must never open a connection or read the environment.
"""

from typing import Any

from yarl import URL

from clients.kafka.connection import client_options
from config.sections import KafkaSettings


def broker_urls(kafka: KafkaSettings) -> list[URL]:
    """The brokers as Faust's URLs."""
    return [URL(f"kafka://{address.strip()}") for address in kafka.brokers.split(",") if address.strip()]


def credentials(kafka: KafkaSettings) -> Any:
    """Faust's credentials object, or None for PLAINTEXT."""
    import faust

    options = client_options(kafka)
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options.get("ssl_context"),
        )
    if kafka.security_protocol == "SSL":
        return faust.SSLCredentials(context=options["ssl_context"])
    return None
