"""HDFS with one NameNode and one DataNode: configuration, one-time format, and the commands that run them.

Both run from one shaded jar and the Hadoop client jars that PySpark includes. Keys are those of core-default.xml and
hdfs-default.xml, Hadoop 3.5.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from clients.webhdfs import CSRF_HEADER
from config.paths import private_dir
from devstack.health import endpoint
from devstack.jars import class_path, pyspark_jar
from devstack.java import Java, scratch_flags
from devstack.kafka import LOG4J, LOGGING_JARS

_PYSPARK_JARS = (
    "hadoop-client-api",
    "hadoop-client-runtime",
    "javax.servlet-api",
    "jcl-over-slf4j",
    "log4j-1.2-api",
    "snappy-java",
    *LOGGING_JARS,
)
_NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
_DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"


def _xml(properties: dict[str, str]) -> str:
    body = "".join(
        f"  <property><name>{escape(name)}</name><value>{escape(value)}</value></property>\n"
        for name, value in properties.items()
    )
    return f"<configuration>\n{body}</configuration>\n"


@dataclass(frozen=True, slots=True)
class Hdfs:
    """HDFS of one state folder.

    Attributes:
        folder: configuration, namespace and blocks; on the class path.
        scratch: folder for the temporary files of the JVMs.
    """

    folder: Path
    url: str
    webhdfs: str
    heap: str
    java: Java
    jars: Path
    scratch: Path

    @property
    def formatted(self) -> bool:
        return (self.folder / "name" / "current" / "VERSION").is_file()

    def configure(self) -> None:
        """Rewrite the configuration; namespace and blocks are kept."""
        host, _ = endpoint(self.url)
        web_host, web_port = endpoint(self.webhdfs)
        core = {
            "fs.defaultFS": self.url,
            "hadoop.tmp.dir": str(self.folder / "tmp"),
            # The DataNode starts at the same time as the NameNode: with frequent retries it registers without delay.
            "ipc.client.connect.retry.interval": "100",
            "ipc.client.connect.max.retries": "600",
            # Pages that change the daemons, such as /logLevel, are for administrators, and there is none.
            "hadoop.security.authorization": "true",
        }
        hdfs = {
            "dfs.namenode.http-address": f"{web_host}:{web_port}",
            "dfs.namenode.name.dir": (self.folder / "name").resolve().as_uri(),
            "dfs.datanode.data.dir": (self.folder / "data").resolve().as_uri(),
            # The DataNode reports its ports to the NameNode, so any free port works.
            "dfs.datanode.address": f"{host}:0",
            "dfs.datanode.http.address": f"{host}:0",
            "dfs.datanode.ipc.address": f"{host}:0",
            "dfs.datanode.hostname": host,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.replication": "1",
            "dfs.permissions.enabled": "false",
            "dfs.webhdfs.enabled": "true",
            # A web page can make a browser send a POST, and so truncate a file, but it cannot add this header. By
            # default, Hadoop wants the header only of user agents that look like browsers.
            "dfs.webhdfs.rest-csrf.enabled": "true",
            "dfs.webhdfs.rest-csrf.custom-header": CSRF_HEADER,
            "dfs.webhdfs.rest-csrf.browser-useragents-regex": ".*",
            "dfs.namenode.safemode.extension": "0",
            "dfs.heartbeat.interval": "1",
            "dfs.namenode.fs-limits.min-block-size": "1024",
            "dfs.client.block.write.replace-datanode-on-failure.policy": "NEVER",
            "dfs.datanode.du.reserved": "0",
        }
        for name in ("webapps/hdfs", "webapps/datanode"):  # the daemons fail to start without these on the class path
            private_dir(self.folder / name)
        (self.folder / "core-site.xml").write_text(_xml(core), encoding="utf-8")
        (self.folder / "hdfs-site.xml").write_text(_xml(hdfs), encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(LOG4J, encoding="utf-8")

    def _java(self) -> list[str]:
        jars = [self.folder, *class_path(self.jars, "hdfs"), *(pyspark_jar(name) for name in _PYSPARK_JARS)]
        return [
            # C1 only (tier 1): both daemons are nearly idle, and start one second earlier.
            self.java.executable,
            f"-Xmx{self.heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv4Stack=true",
            *scratch_flags(self.scratch),
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp",
            ":".join(map(str, jars)),
        ]

    @property
    def format_command(self) -> list[str]:
        """The command that formats the NameNode; run once."""
        return [*self._java(), _NAMENODE, "-format", "-nonInteractive"]

    @property
    def namenode_command(self) -> list[str]:
        return [*self._java(), _NAMENODE]

    @property
    def datanode_command(self) -> list[str]:
        return [*self._java(), _DATANODE]
