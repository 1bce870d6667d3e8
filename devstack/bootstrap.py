"""First-time set-up: a supported Python, `.venv` with the pinned packages, Java, and the pinned jars.

The system's Python runs it (`python3 -m devstack.bootstrap`), before any package is installed. The syntax is that of
Python 3.6, so that an unsupported Python can run the version check and print the error.
"""

import argparse
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
_RESTARTED_WITH = "DEVSTACK_BOOTSTRAP_PYTHON"


class SetupError(Exception):
    """The set-up failed; the message gives the next step."""


def log(line: str) -> None:
    """Print one line of progress."""
    sys.stdout.write(f"setup: {line}\n")
    sys.stdout.flush()


def use_supported_python() -> None:
    """Return if this Python is supported; otherwise restart the program with a supported one from PATH.

    Raises:
        SetupError: PATH has no supported Python.
    """
    if sys.version_info[:2] in SUPPORTED:
        return
    for major, minor in reversed(SUPPORTED):
        other = shutil.which(f"python{major}.{minor}")
        if other and not os.environ.get(_RESTARTED_WITH):
            os.environ[_RESTARTED_WITH] = other
            os.execv(other, [other, "-m", "devstack.bootstrap", *sys.argv[1:]])  # noqa: S606  found by name on PATH
    found = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ", ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
    raise SetupError(
        f"Python {found} ({sys.executable}) is not supported, expected one of {wanted}: "
        "install one and run: make setup PYTHON=/path/to/python3.11"
    )


def root_on_debian() -> bool:
    """Whether distribution packages can be installed without sudo: root on Debian or a derivative."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(*alternatives: str) -> None:
    """Install the first of the packages that the distribution provides.

    Raises:
        SetupError: the distribution provides none of them, or the installation failed.
    """
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environ, stdout=subprocess.DEVNULL, check=False)
    for package in alternatives:
        known = subprocess.run(["apt-cache", "show", package], capture_output=True, check=False)
        if known.returncode == 0:
            log(f"installing {package} with apt-get")
            command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
            done = subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                return
            raise SetupError(
                f"apt-get install {package} failed with exit code {done.returncode}; run it manually to see why"
            )
    raise SetupError(f"this distribution provides none of: {', '.join(alternatives)}")


def stamp() -> str:
    """SHA-256 of the Python version and the requirement files from which `.venv` is installed."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (INSTALLER, PACKAGES):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def ensure_environment() -> None:
    """Create `.venv` with exactly the pinned packages; do nothing if it is up to date.

    Raises:
        SetupError: a step failed.
    """
    wanted = stamp()
    python = VENV / "bin" / "python"
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8") == wanted and python.exists():
        return
    began = time.monotonic()
    if not _same_python(python):
        log(f"creating {VENV.name} with Python {sys.version.split()[0]}")
        _create_venv()
    _run([str(python), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(INSTALLER)], "the installer")
    log(f"installing the pinned packages of {PACKAGES.name}")
    _run(
        [str(VENV / "bin" / "uv"), "pip", "sync", "--require-hashes", "--python", str(python), str(PACKAGES)],
        "the pinned packages",
    )
    STAMP.write_text(wanted, encoding="utf-8")
    log(f"packages installed in {time.monotonic() - began:.0f} s")


def link_project() -> None:
    """Make the project's packages importable from any folder for programs of `.venv` (`faust -A streams …`)."""
    for site in sorted((VENV / "lib").glob("python3.*/site-packages")):
        link = site / "bitcoin_data_ia.pth"
        if not link.is_file() or link.read_text(encoding="utf-8") != f"{ROOT}\n":
            link.write_text(f"{ROOT}\n", encoding="utf-8")


def _same_python(python: Path) -> bool:
    if not python.exists() or not (VENV / "bin" / "pip").exists():
        return False
    result = subprocess.run(
        [str(python), "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() == sys.version.strip()


def _create_venv() -> None:
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0 and root_on_debian():
        apt_install(name, "python3-venv")
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise SetupError(
            f"cannot create a virtual environment ({(made.stderr or made.stdout).strip().splitlines()[-1:]}); "
            f"on Debian or Ubuntu: sudo apt-get install {name}"
        )


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise SetupError(f"cannot install {what}: `{' '.join(command)}` failed with exit code {done.returncode}")


def ensure_java() -> None:
    """Find a supported Java, or install one if that needs no sudo.

    Raises:
        SetupError: there is none; the message names the package to install.
    """
    from devstack.java import find_java, missing_java

    java, rejected = find_java(os.environ)
    if java is None and root_on_debian():
        apt_install("openjdk-17-jre-headless", "openjdk-21-jre-headless")
        java, rejected = find_java(os.environ)
    if java is None:
        raise SetupError(missing_java(rejected))


def ensure_browser() -> None:
    """Find or install headless Chromium and its driver, which the dashboard's tests use.

    Raises:
        SetupError: one is missing and cannot be installed; the message names the packages.
    """
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(program) is None and root_on_debian():
            apt_install(package)
        if shutil.which(program) is None:
            raise SetupError(f"{program} is not installed; on Debian: sudo apt-get install chromium chromium-driver")


def main() -> int:
    """Run all steps; the argument `browser` adds what the tests need. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 -m devstack.bootstrap", description="Set up .venv with the pinned packages, Java and the jars."
    )
    parser.add_argument("extra", nargs="?", choices=["browser"], help="headless Chromium too, for the tests")
    extra = parser.parse_args().extra
    began = time.monotonic()
    try:
        use_supported_python()
        ensure_java()
        ensure_environment()
        link_project()
        if extra == "browser":
            ensure_browser()
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    jars = subprocess.run([str(VENV / "bin" / "python"), "-m", "devstack", "jars"], cwd=ROOT, check=False)
    if jars.returncode == 0:
        log(f"done in {time.monotonic() - began:.1f} s")
    return jars.returncode


if __name__ == "__main__":
    sys.exit(main())
