"""The virtual environment of third-party peers: build/bench-venv, from requirements-bench.txt."""

import hashlib
import subprocess
import sys
from pathlib import Path

from devstack.stack import ROOT

VENV = ROOT / "build" / "bench-venv"
PACKAGES = ROOT / "requirements-bench.txt"


def peer_python() -> Path | None:
    """Return the Python with the peers' packages, installing it if necessary; None if the installation fails."""
    python, stamp = VENV / "bin" / "python", VENV / "packages.sha256"
    wanted = hashlib.sha256(PACKAGES.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    uv = Path(sys.executable).with_name("uv")
    commands = (
        ["venv", "-q", "--clear", "--python", sys.executable, str(VENV)],
        ["pip", "sync", "-q", "--require-hashes", "--python", str(python), str(PACKAGES)],
    )
    for command in commands:
        done = subprocess.run([str(uv), *command], check=False, cwd=ROOT)
        if done.returncode:
            sys.stderr.write(f"bench: uv {' '.join(command)}: exit code {done.returncode}; skipping these peers\n")
            return None
    stamp.write_text(wanted, encoding="utf-8")
    return python
