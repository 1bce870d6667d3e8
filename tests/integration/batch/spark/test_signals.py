"""SIGTERM while Spark starts, and right after: the program ends with exit code 0, its JVM too, without a traceback."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.stack import eventually, running

NO_HDFS = {"BDI_HDFS__URL": "hdfs://127.0.0.1:9", "BDI_HDFS__WEBHDFS": "http://127.0.0.1:9"}


def is_java(process: psutil.Process) -> bool:
    """Of the launcher's processes, some end at any moment."""
    try:
        return process.name() == "java"
    except psutil.Error:
        return False


@pytest.mark.parametrize("is_started", [False, True], ids=["starting", "started"])
def test_a_signal_ends_the_program_and_its_jvm_without_a_traceback(tmp_path: Path, is_started: bool) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("BDI_")}
    env |= NO_HDFS | {"BDI_KAFKA__BROKERS": "127.0.0.1:9", "TMPDIR": str(tmp_path)}
    with running((sys.executable, "-m", "batch", "hourly"), tmp_path / "hourly.log", env) as program:
        me = psutil.Process(program.process.pid)

        def jvm() -> list[psutil.Process]:
            return [child for child in me.children(recursive=True) if is_java(child)]

        (java,) = eventually(jvm, 60, "the JVM starts", every_s=0.01)
        if is_started:
            eventually(lambda: "Spark session `hourly` started" in program.output(), 60, "Spark runs", every_s=0.01)
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(15) == 0
        psutil.wait_procs([java], timeout=5)
        assert not java.is_running()
        lines = program.output().splitlines()
    assert [line for line in lines if line.startswith(("Traceback", "\tat ", "Exception", "  File "))] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("bitcoin-spark-")] == []
