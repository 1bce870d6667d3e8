"""A signal before Spark runs ends the program and the JVM that it is starting, without a traceback."""

import signal
import subprocess
import sys

import psutil

from tests.support.paths import ROOT
from tests.support.stack import eventually

STARTS = """
import subprocess, sys
from batch.spark.jvm import kill_jvm
from clients.stop_signals import StopFlag

with StopFlag(kill_jvm).signals():
    script = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', 'import time; time.sleep(600)'])"
    launcher = subprocess.Popen([sys.executable, "-c", script])
    print("started", flush=True)
    launcher.wait()
    raise SystemExit("the launcher ended without a signal")
"""


def test_a_signal_while_the_jvm_starts_ends_it_too() -> None:
    words = (sys.executable, "-c", STARTS)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "started\n"
        me = psutil.Process(program.pid)
        eventually(lambda: len(me.children(recursive=True)) >= 2, 60, "the JVM's launcher and its child")
        family = me.children(recursive=True)
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=30)
    assert (program.returncode, out, err) == (0, "", "")
    _, left = psutil.wait_procs(family, timeout=5)
    assert left == []
