"""Find the Java for Kafka, Hadoop and Spark. The set-up uses this module before any package is installed."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = (17, 21)
# Spark starts its JVM with --add-modules jdk.incubator.vector; reduced runtimes lack the module.
REQUIRED_MODULE = "jdk.incubator.vector"
JVM_FOLDER = Path("/usr/lib/jvm")  # where Debian, Ubuntu, Fedora and Arch install Java


@dataclass(frozen=True, slots=True)
class Java:
    """A supported Java; `home` is the value for JAVA_HOME."""

    home: Path
    version: int

    @property
    def executable(self) -> str:
        return str(self.home / "bin" / "java")


def scratch_flags(scratch: Path) -> list[str]:
    """Return JVM flags that put its temporary files into `scratch` instead of the system's temporary folder."""
    return [f"-Djava.io.tmpdir={scratch}", "-XX:-UsePerfData"]


def candidates(environ: Mapping[str, str], jvm_folder: Path = JVM_FOLDER) -> Iterator[Path]:
    """Possible Java homes: JAVA_HOME, then the `java` on PATH, then the subfolders of `jvm_folder`."""
    if environ.get("JAVA_HOME"):
        yield Path(environ["JAVA_HOME"])
    on_path = shutil.which("java", path=environ.get("PATH"))
    if on_path:
        yield Path(on_path).resolve().parent.parent
    if jvm_folder.is_dir():
        yield from sorted(jvm_folder.iterdir())


def inspect(home: Path) -> tuple[int | None, str]:
    """Return the major version of the Java at `home` and "", or None and the reason why it is not supported."""
    java = home / "bin" / "java"
    if not java.is_file():
        return None, f"{home}: no bin/java"
    release = home / "release"
    text = release.read_text(encoding="utf-8", errors="replace") if release.is_file() else ""
    found = re.search(r'^JAVA_VERSION="(\d+)', text, re.MULTILINE)
    modules = re.search(r'^MODULES="([^"]*)"', text, re.MULTILINE)
    if found and modules:
        version, names = int(found[1]), set(modules[1].split())
    else:
        version, names = _run_java(java)
    if version not in SUPPORTED:
        return None, f"{home}: Java {version}, expected {' or '.join(map(str, SUPPORTED))}"
    if REQUIRED_MODULE not in names:
        return None, f"{home}: Java {version} without the module {REQUIRED_MODULE}, which Spark needs"
    return version, ""


def _run_java(java: Path) -> tuple[int, set[str]]:
    try:
        listed = subprocess.run([str(java), "--list-modules"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0, set()
    version = re.search(r"^java\.base@(\d+)", listed.stdout, re.MULTILINE)
    return int(version[1]) if version else 0, {line.split("@")[0] for line in listed.stdout.splitlines()}


def find_java(environ: Mapping[str, str], jvm_folder: Path = JVM_FOLDER) -> tuple[Java | None, list[str]]:
    """Return the first supported Java of `candidates`, and the reasons why earlier ones were rejected."""
    rejected: list[str] = []
    for home in candidates(environ, jvm_folder):
        version, why = inspect(home)
        if version is not None:
            return Java(home, version), rejected
        if why not in rejected:
            rejected.append(why)
    return None, rejected


def missing_java(rejected: list[str]) -> str:
    """Return the error message for a machine without a supported Java."""
    seen = f" (found: {'; '.join(rejected)})" if rejected else ""
    return (
        f"no Java {' or '.join(map(str, SUPPORTED))} with the module {REQUIRED_MODULE}{seen}; "
        "install one, on Debian or Ubuntu: sudo apt-get install openjdk-17-jre-headless "
        "(or openjdk-21-jre-headless), or set JAVA_HOME to one"
    )
