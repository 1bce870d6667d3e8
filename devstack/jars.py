"""The pinned jars: listed in jars.lock, downloaded once with PySpark's Apache Ivy, verified by SHA-256.

They are cached outside the work tree. Ivy downloads from Maven Central by default; for a mirror, set
`devstack.ivy_settings` to an Ivy settings file.
"""

import fcntl
import hashlib
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from devstack.java import Java
from marketdata.errors import StackError

LOCK = Path(__file__).with_name("jars.lock")
# Without POM files: every artifact is pinned, so one request per artifact is enough.
_IVY_SETTINGS = """<ivysettings>
  <settings defaultResolver="public"/>
  <resolvers><ibiblio name="public" m2compatible="true" usepoms="false"/></resolvers>
</ivysettings>
"""
_VERIFIED = "verified.json"


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of jars.lock; `group_of_jars` is its folder in the cache: kafka, hdfs or spark."""

    group_of_jars: str
    organisation: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinates(self) -> str:
        return f"{self.organisation}:{self.artifact}:{self.version}"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """Return the pinned jars in the order of the file.

    Raises:
        StackError: a line does not have five fields.
    """
    jars = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("#", 1)[0].split()
        if not fields:
            continue
        try:
            jars.append(Jar(*fields))
        except TypeError as error:
            msg = f"{path}:{number}: {line!r}: expected set, group, artifact, version, SHA-256"
            raise StackError(msg) from error
    return jars


def pyspark_jars() -> Path:
    """Return the folder with the jars of the installed PySpark.

    Raises:
        StackError: PySpark is not installed.
    """
    spec = importlib.util.find_spec("pyspark")
    if spec is None or not spec.submodule_search_locations:
        msg = "pyspark is not installed; run: make setup"
        raise StackError(msg)
    return Path(spec.submodule_search_locations[0]) / "jars"


def pyspark_jar(name: str) -> Path:
    """Return the path of one of PySpark's jars by artifact name.

    Raises:
        StackError: there is no such jar.
    """
    found = sorted(pyspark_jars().glob(f"{name}-[0-9]*.jar"))
    if not found:
        msg = f"{pyspark_jars()}: no {name} jar; reinstall PySpark with: make setup"
        raise StackError(msg)
    return found[0]


def class_path(folder: Path, group_of_jars: str) -> list[Path]:
    """Return the paths of one set of jars, in the order of jars.lock.

    Raises:
        StackError: a jar is missing.
    """
    paths = [folder / group_of_jars / jar.file_name for jar in read_lock() if jar.group_of_jars == group_of_jars]
    for path in paths:
        if not path.is_file():
            msg = f"jar {path} is missing; run: python -m devstack jars"
            raise StackError(msg)
    return paths


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Checksums:
    """Cache of verified checksums: a file with unchanged size and modification time is not hashed again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _VERIFIED
        try:
            self._known: dict[str, list[object]] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def match(self, path: Path, jar: Jar) -> bool:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        mark: list[object] = [stat.st_size, stat.st_mtime_ns, jar.sha256]
        key = f"{jar.group_of_jars}/{jar.file_name}"
        if self._known.get(key) == mark:
            return True
        if _sha256(path) != jar.sha256:
            return False
        self._known[key] = mark
        return True

    def save(self) -> None:
        self._path.write_text(json.dumps(self._known, indent=0), encoding="utf-8")


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ivy_module(jars: Iterable[Jar]) -> str:
    """Return the Ivy module file for these artifacts: one configuration per set, no transitive dependencies."""
    listed = list(jars)
    sets = sorted({jar.group_of_jars for jar in listed})
    confs = "".join(f"<conf name={quoteattr(name)}/>" for name in sets)
    wanted = "\n".join(
        f"    <dependency org={quoteattr(jar.organisation)} name={quoteattr(jar.artifact)} rev={quoteattr(jar.version)}"
        f' transitive="false" conf="{jar.group_of_jars}->default">'
        f'<artifact name={quoteattr(jar.artifact)} type="jar" ext="jar" conf="{jar.group_of_jars}"/></dependency>'
        for jar in listed
    )
    return (
        '<ivy-module version="2.0">\n  <info organisation="devstack" module="jars"/>\n'
        f"  <configurations>{confs}</configurations>\n  <dependencies>\n{wanted}\n  </dependencies>\n</ivy-module>\n"
    )


def fetch_jars(folder: Path, java: Java, report: Callable[[str], None], ivy_settings: Path | None = None) -> int:
    """Download the jars that are missing from `folder` or do not match their checksum; return their number.

    Ivy's cache inside `folder` keeps completed downloads, so a new run continues an interrupted one.

    Raises:
        StackError: a download failed, or a checksum does not match; the message names the artifact.
    """
    jars = read_lock()
    with _exclusive(folder):
        checksums = _Checksums(folder)
        wanted = [jar for jar in jars if not checksums.match(folder / jar.group_of_jars / jar.file_name, jar)]
        if not wanted:
            checksums.save()
            return 0
        for jar in wanted:
            (folder / jar.group_of_jars / jar.file_name).unlink(missing_ok=True)
        report(f"jars: {len(wanted)} of {len(jars)} to fetch into {folder}")
        log = _run_ivy(folder, wanted, java, report, ivy_settings)
        for jar in wanted:
            path = folder / jar.group_of_jars / jar.file_name
            if not path.is_file():
                msg = (
                    f"jar {jar.coordinates} could not be fetched: see {log} and run again; finished downloads are kept"
                )
                raise StackError(msg)
            if not checksums.match(path, jar):
                found = _sha256(path)
                path.unlink()
                shutil.rmtree(folder / ".ivy", ignore_errors=True)
                msg = f"jar {jar.coordinates}: SHA-256 {found}, expected {jar.sha256}; the file was deleted"
                raise StackError(msg)
        checksums.save()
        shutil.rmtree(folder / ".ivy", ignore_errors=True)
        return len(wanted)


def _run_ivy(folder: Path, wanted: list[Jar], java: Java, report: Callable[[str], None], settings: Path | None) -> Path:
    work = folder / ".ivy"
    work.mkdir(exist_ok=True)
    (work / "ivy.xml").write_text(ivy_module(wanted), encoding="utf-8")
    if settings is None:
        settings = work / "ivysettings.xml"
        settings.write_text(_IVY_SETTINGS, encoding="utf-8")
    command = [
        java.executable,
        "-XX:-UsePerfData",
        "-jar",
        str(pyspark_jar("ivy")),
        "-settings",
        str(settings),
        "-cache",
        str(work / "cache"),
        "-ivy",
        str(work / "ivy.xml"),
        "-confs",
        *sorted({jar.group_of_jars for jar in wanted}),
        "-retrieve",
        f"{folder}/[conf]/[artifact]-[revision].[ext]",
        "-overwriteMode",
        "always",
    ]
    log = folder / "ivy.log"
    done = 0
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as ivy,
    ):
        for line in ivy.stdout or ():
            output.write(line)
            if "[SUCCESSFUL" in line:
                done += 1
                report(f"jars: {done}/{len(wanted)} {line.split('!')[-1].split('(')[0].strip()}")
    return log
