"""Cache folders outside the work tree, and the environment of child programs."""

import os
import shutil
from pathlib import Path

from config.settings import Settings


def cache_dir() -> Path:
    """Return the download cache shared by all clones: `$XDG_CACHE_HOME/bitcoin-data`, else `~/.cache/bitcoin-data`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bitcoin-data"


def jars_dir(settings: Settings) -> Path:
    """Return the folder of jars, with the sub-folders `kafka`, `hdfs` and `spark`."""
    return settings.devstack.jars_dir or cache_dir() / "jars"


def spark_jars_dir(settings: Settings) -> Path:
    """Return the folder of Spark's Kafka connector: `batch.jars_dir`, else the cache of `python -m devstack jars`."""
    return settings.batch.jars_dir or jars_dir(settings) / "spark"


def java_home() -> str:
    """Return the Java that child programs use: `JAVA_HOME`, else `java` on the path; empty if there is none."""
    return os.environ.get("JAVA_HOME") or shutil.which("java") or ""


def child_environment(**extra: str) -> dict[str, str]:
    """Return the environment of a child program: this program's, overridden by `extra`."""
    return {**os.environ, **extra}
