"""Kafka with one node in KRaft mode: configuration, one-time format, and the command that runs it.

Keys are those of Kafka's broker configuration reference, release 4.1.
"""

import base64
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from config.paths import private_dir
from devstack.health import endpoint
from devstack.jars import class_path, pyspark_jar
from devstack.java import Java, scratch_flags

# Kafka's dependencies include no SLF4J binding; with PySpark's logging jars it logs to standard output.
LOGGING_JARS = ("slf4j-api", "log4j-slf4j2-impl", "log4j-api", "log4j-core")
# Control characters, which may come from outside, become `?`.
LOG4J = r"""rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %replace{%m}{[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f]}{?}%n
"""


def free_port() -> int:
    """Return a loopback port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Kafka:
    """The broker of one state folder.

    Attributes:
        folder: the configuration and, in `data`, the topics' logs.
        scratch: folder for the JVM's temporary files.
    """

    folder: Path
    brokers: str
    partitions: int
    heap: str
    java: Java
    jars: Path
    scratch: Path

    @property
    def _meta(self) -> Path:
        return self.folder / "data" / "meta.properties"

    @property
    def formatted(self) -> bool:
        return self._meta.is_file()

    def configure(self) -> None:
        """Rewrite the configuration; data and cluster id are kept."""
        host, port = endpoint(self.brokers.split(",")[0])
        controller = f"{host}:{free_port()}"
        config = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{host}:{port},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{host}:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            # Topics are created explicitly, with their partitions and retention.
            "auto.create.topics.enable": "false",
            "num.partitions": str(self.partitions),
            "default.replication.factor": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "log.retention.hours": "336",
            # One cleaner thread with a 16 MiB buffer; the default (128 MiB) is a quarter of this heap.
            "log.cleaner.threads": "1",
            "log.cleaner.dedupe.buffer.size": "16777216",
            "num.network.threads": "2",
            "num.io.threads": "4",
        }
        private_dir(self.folder)
        text = "".join(f"{key}={value}\n" for key, value in config.items())
        (self.folder / "server.properties").write_text(text, encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(LOG4J, encoding="utf-8")

    def _java(self, *flags: str) -> list[str]:
        jars = [*(pyspark_jar(name) for name in LOGGING_JARS), *class_path(self.jars, "kafka")]
        return [
            self.java.executable,
            *flags,
            *scratch_flags(self.scratch),
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp",
            ":".join(map(str, jars)),
        ]

    @property
    def format_command(self) -> list[str]:
        """The command that formats the storage; run once, because it sets the cluster id."""
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        config = str(self.folder / "server.properties")
        # Kafka's command line would read a leading dash as an option.
        cluster_id = cluster_id.replace("-", "A", 1) if cluster_id.startswith("-") else cluster_id
        return [
            *self._java("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            cluster_id,
            "-c",
            config,
        ]

    @property
    def command(self) -> list[str]:
        """The command that runs the broker in the foreground."""
        return [
            *self._java(f"-Xmx{self.heap}", "-Xms128m", "-Djava.awt.headless=true"),
            "kafka.Kafka",
            str(self.folder / "server.properties"),
        ]
