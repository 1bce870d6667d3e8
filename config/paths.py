"""Cache folders outside the work tree, private folders, and folder and environment of child programs."""

import os
import shutil
from pathlib import Path

from config.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
"""The folder that contains the packages: a clone, or an environment's site-packages."""
PRIVATE_UMASK = 0o077
"""Of programs that write state and logs: only the owner has access to new files and folders."""
_STICKY = 0o1000


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


def work_dir() -> Path:
    """Return the folder that relative paths of the settings refer to in child programs.

    It is the clone, or for installed packages the current folder, so that site-packages contains no state.
    """
    return ROOT if (ROOT / "pyproject.toml").is_file() else Path.cwd()


def existing(path: Path) -> Path:
    """Return the absolute path of shipped data: relative to the current folder, else to the packages."""
    return path.absolute() if path.exists() else ROOT / path


def private_dir(folder: Path) -> Path:
    """Create a folder, and return it; others than its owner are denied access, also if it exists.

    A folder of another owner, and one that is meant to be shared (sticky, as /tmp), stays as it is.

    Raises:
        OSError: the folder cannot be created.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_mode & PRIVATE_UMASK and not found.st_mode & _STICKY and found.st_uid == os.getuid():
        folder.chmod(0o700)
    return folder


def child_environment(**extra: str) -> dict[str, str]:
    """Return the environment of a child program: this program's, overridden by `extra`."""
    return {**os.environ, **extra}
