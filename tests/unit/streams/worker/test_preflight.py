"""A worker refuses a data folder or web port that another process uses."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from marketdata.errors import ConfigurationError
from streams.worker.preflight import claim_folder, require_free_port

HOLDS = (
    "import sys, pathlib; from streams.worker.preflight import claim_folder; claim_folder(pathlib.Path(sys.argv[1]))"
)


def test_a_folder_is_locked_until_its_worker_ends(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    words = [sys.executable, "-c", f"{HOLDS}; print('held', flush=True); sys.stdin.read()", str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigurationError) as caught:
            claim_folder(folder)
        assert f"streams.data_dir: {folder}: locked by pid {holder.pid}, expected" in str(caught.value)
        holder.kill()
    os.close(claim_folder(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "worker.lock").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"streams\.data_dir: .*expected a writable folder"):
        claim_folder(tmp_path / "file")


async def test_a_used_port_names_its_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=rf"streams\.web_port: {port}: expected a free port on 127\.0\.0\.1"
        ):
            await require_free_port("127.0.0.1", port)
    await require_free_port("127.0.0.1", port)
