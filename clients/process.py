"""Child programs that end with their parent, however the parent ends.

`bound` wraps a command so that this file runs first, as `process.py PARENT_PID COMMAND…`: it sets PR_SET_PDEATHSIG
(prctl(2)), which survives execve, and becomes the command. It runs isolated and without site packages (`python -I -S`)
so that this costs milliseconds, so this module imports the standard library only.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def bound(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` and ends with the calling process.

    The kernel ties the death signal to the thread that starts the child: start it from a thread that lives as long as
    the program, such as the main thread.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(argv: Sequence[str]) -> None:
    """Bind this process to its parent and become the command; exit with code 1 if the parent has already ended."""
    parent, command = int(argv[1]), list(argv[2:])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before prctl took effect
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  no shell, and the command is the project's own


if __name__ == "__main__":
    main(sys.argv)
