"""Translate the settings into the options of `faust.App`."""

import hashlib
import socket
from typing import Any

from yarl import URL

from clients.kafka.connection import client_options
from config import Settings
from config.sections import KafkaSettings

# Faust's stream buffer, in events; one event is a batch. With 4, Faust once blocked forever on a changelog.
BUFFERED_BATCHES = 12
# Fetch size per partition: 16 MiB is 48,000 ticks, enough for a share of each of many markets. With many partitions it
# is less, because one batch of each partition may be in progress at once.
MAX_FETCH_BYTES, MAX_FETCH_TOTAL_BYTES = 16 << 20, 64 << 20
MAX_RECORD_BATCH_BYTES = 500_000  # Kafka's own limit is 1 MiB
COMMIT_INTERVAL_S = 1.0
REQUEST_TIMEOUT_S = 40.0
DELIVERY_TIMEOUT_S = 60.0


def app_options(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments of `faust.App`, except its classes and logging."""
    streams = settings.streams
    kafka = settings.kafka
    return {
        "broker": broker_urls(kafka),
        "broker_credentials": credentials(kafka),
        "autodiscover": False,
        "origin": "streams",
        "datadir": streams.data_dir.absolute(),
        "store": f"{streams.store}://",
        "key_serializer": "raw",
        "value_serializer": "raw",
        "topic_partitions": kafka.partitions,
        "topic_replication_factor": kafka.replication_factor,
        # The worker with the first partition of cryptoTopic leads, so Faust's leader topic is not needed.
        "topic_disable_leader": True,
        "table_standby_replicas": streams.standby_replicas,
        "stream_buffer_maxsize": BUFFERED_BATCHES,
        "broker_commit_interval": COMMIT_INTERVAL_S,
        "broker_session_timeout": streams.session_timeout_s,
        "broker_heartbeat_interval": streams.session_timeout_s / 3,
        "broker_request_timeout": REQUEST_TIMEOUT_S,
        "broker_rebalance_timeout": max(10.0, streams.session_timeout_s),
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": min(MAX_FETCH_BYTES, MAX_FETCH_TOTAL_BYTES // kafka.partitions),
        "producer_acks": -1,
        "producer_max_batch_size": MAX_RECORD_BATCH_BYTES,
        "producer_request_timeout": DELIVERY_TIMEOUT_S,
        "web_bind": streams.web_host,
        "web_host": streams.web_host,
        "web_port": streams.web_port,
        "web_tables_enabled": False,
        "web_stats_enabled": False,
        "web_graph_enabled": False,
        "web_router_enabled": False,
        "web_in_thread": False,
        "worker_redirect_stdouts": False,
    }


def group_instance_id(conf: Any) -> str:
    """Return a group instance id that is stable across restarts and unique per host, data folder and address.

    The broker returns the previous partitions to a restarted member with the same id. Faust permanently rejects
    partitions that were assigned to another address, so the address is part of the id. `conf` is Faust's.
    """
    place = f"{socket.gethostname()}:{conf.datadir.absolute()}:{conf.canonical_url}"
    return f"{conf.id}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def broker_urls(kafka: KafkaSettings) -> list[URL]:
    """Return the brokers as Faust's URLs."""
    return [URL(f"kafka://{address.strip()}") for address in kafka.brokers.split(",") if address.strip()]


def credentials(kafka: KafkaSettings) -> Any:
    """Return Faust's credentials object; None for PLAINTEXT."""
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
