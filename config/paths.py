"""Folders outside the work tree, and the environment that child programs get."""

import os
import shutil
from pathlib import Path

from config.settings import Settings


def cache_dir() -> Path:
    """Where downloads are kept over clones: `$XDG_CACHE_HOME/bitcoin-data`, else `~/.cache/bitcoin-data`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bitcoin-data"


def jars_dir(settings: Settings) -> Path:
    """The folder with one sub-folder of jars each for `kafka`, `hdfs` and `spark`."""
    return settings.devstack.jars_dir or cache_dir() / "jars"


def spark_jars_dir(settings: Settings) -> Path:
    """Spark's Kafka connector and its jars: `batch.jars_dir`, else what `python -m devstack jars` fills."""
    return settings.batch.jars_dir or jars_dir(settings) / "spark"


def java_home() -> str:
    """The Java that child programs will find: `JAVA_HOME`, else the `java` on the path; empty where there is none."""
    return os.environ.get("JAVA_HOME") or shutil.which("java") or ""


def child_environment(**extra: str) -> dict[str, str]:
    """This program's environment with `extra` over it, for a child program."""
    return {**os.environ, **extra}
