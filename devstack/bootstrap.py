"""The set-up from nothing: a supported Python, `.venv` with the pinned packages, Java, and the pinned jars.

Run by the machine's own Python (`python3 -m devstack.bootstrap`), so it uses the standard library alone, and syntax
that an older Python reads far enough to be told what is wrong.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

SUPPORTED = ((3, 11), (3, 12), (3, 13))
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "setup.stamp"
INSTALLER = ROOT / "requirements-bootstrap.txt"
PACKAGES = ROOT / "requirements-dev.txt"
_HAND_OVER = "DEVSTACK_BOOTSTRAP_PYTHON"


class SetupError(Exception):
    """The set-up cannot go on; the message says what to do."""


def say(line: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"setup: {line}\n")
    sys.stdout.flush()


def use_supported_python() -> None:
    """Go on where this Python is supported, else start anew in one that is on PATH.

    Raises:
        SetupError: there is none.
    """
    if sys.version_info[:2] in SUPPORTED:
        return
    for major, minor in reversed(SUPPORTED):
        other = shutil.which(f"python{major}.{minor}")
        if other and not os.environ.get(_HAND_OVER):
            os.environ[_HAND_OVER] = other
            os.execv(other, [other, "-m", "devstack.bootstrap", *sys.argv[1:]])  # noqa: S606  found by name on PATH
    found = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
    raise SetupError(
        f"Python {found} ({sys.executable}) is not supported, expected one of {wanted}: "
        "install one and run: make setup PYTHON=/path/to/python3.11"
    )


def root_on_debian() -> bool:
    """Whether packages of the distribution may be installed without asking anybody."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(*alternatives: str) -> None:
    """Install the first of the packages that the distribution has.

    Raises:
        SetupError: it has none of them, or the installation failed.
    """
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environ, stdout=subprocess.DEVNULL, check=False)
    for package in alternatives:
        known = subprocess.run(["apt-cache", "show", package], capture_output=True, check=False)
        if known.returncode == 0:
            say(f"installing the distribution's {package}")
            command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
            done = subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                return
            raise SetupError(f"apt-get install {package} failed with exit code {done.returncode}; run it by hand")
    raise SetupError(f"this distribution has none of: {', '.join(alternatives)}")


def stamp() -> str:
    """What the installed environment was made from."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (INSTALLER, PACKAGES):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_environment() -> None:
    """`.venv` with exactly the pinned packages; nothing is done where it is that already.

    Raises:
        SetupError: it cannot be made.
    """
    wanted = stamp()
    python = VENV / "bin" / "python"
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted and python.exists():
        return
    began = time.monotonic()
    if not _same_python(python):
        say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        _make_venv()
    _run([str(python), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(INSTALLER)], "the installer")
    say(f"installing the pinned packages of {PACKAGES.name}")
    _run(
        [str(VENV / "bin" / "uv"), "pip", "sync", "--require-hashes", "--python", str(python), str(PACKAGES)],
        "the pinned packages",
    )
    STAMP.write_text(wanted, encoding="utf-8")
    say(f"packages installed after {time.monotonic() - began:.0f} s")


def link_project() -> None:
    """Let the programs of the environment (`faust -A streams …`) find the project's packages from any folder."""
    for site in sorted((VENV / "lib").glob("python3.*/site-packages")):
        link = site / "bitcoin_data_ia.pth"
        if not link.is_file() or link.read_text(encoding="utf-8") != f"{ROOT}\n":
            link.write_text(f"{ROOT}\n", encoding="utf-8")


def _same_python(python: Path) -> bool:
    if not python.exists() or not (VENV / "bin" / "pip").exists():
        return False
    asked = subprocess.run(
        [str(python), "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() == sys.version.strip()


def _make_venv() -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0 and root_on_debian():
        apt_install(name, "python3-venv")
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise SetupError(
            f"a virtual environment cannot be made ({(made.stderr or made.stdout).strip().splitlines()[-1:]}); "
            f"on Debian or Ubuntu: sudo apt-get install {name}"
        )


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise SetupError(f"{what} could not be installed: `{' '.join(command)}` gave exit code {done.returncode}")


def make_java() -> None:
    """A usable Java: found, or installed where that needs nobody's leave.

    Raises:
        SetupError: there is none; the message says what to install.
    """
    from devstack.java import find_java, missing_java

    java, refused = find_java(os.environ)
    if java is None and root_on_debian():
        apt_install("openjdk-17-jre-headless", "openjdk-21-jre-headless")
        java, refused = find_java(os.environ)
    if java is None:
        raise SetupError(missing_java(refused))


def make_browser() -> None:
    """The headless Chromium and its driver that the tests of the dashboard use.

    Raises:
        SetupError: they are not here and may not be installed; the message says what to install.
    """
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(program) is None and root_on_debian():
            apt_install(package)
        if shutil.which(program) is None:
            raise SetupError(f"{program} is not here; on Debian: sudo apt-get install chromium chromium-driver")


def main() -> int:
    """Do it all; with the word `browser`, what the tests need besides. Returns the exit code."""
    began = time.monotonic()
    try:
        use_supported_python()
        make_java()
        make_environment()
        link_project()
        if sys.argv[1:] == ["browser"]:
            make_browser()
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    jars = subprocess.run([str(VENV / "bin" / "python"), "-m", "devstack", "jars"], cwd=ROOT, check=False)
    if jars.returncode == 0:
        say(f"done after {time.monotonic() - began:.1f} s")
    return jars.returncode


if __name__ == "__main__":
    sys.exit(main())
