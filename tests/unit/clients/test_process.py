"""Child programs that end with their parent."""

import signal
import subprocess
import sys

import psutil

from clients.process import bound
from devstack.stack import ROOT
from tests.support.stack import eventually


def test_a_child_dies_with_a_killed_parent() -> None:
    script = (
        "import subprocess, sys, time; from clients.process import bound;"
        "child = subprocess.Popen(bound(['sleep', '600']));"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # Before it becomes `sleep` it may not have set the death signal, and would end by the check of its parent.
    eventually(lambda: psutil.Process(child).name() == "sleep", 10, "the child runs")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    eventually(lambda: _is_gone(child), 10, "the child is gone")


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    command = bound(["echo", "started"])
    command[4] = "1"  # not the process that starts it
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (1, "")
