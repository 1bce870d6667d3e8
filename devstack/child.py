"""Becomes the command that it is given, bound to die with its parent: `child.py PARENT_PID COMMAND…`.

PR_SET_PDEATHSIG (prctl(2)) outlives execve, so no part of the stack outlives its supervisor, whatever kills that one.
Run by file, isolated and without site packages, for it must start within milliseconds: it imports the standard library
alone.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Bind to the parent and become the command."""
    parent, command = int(argv[1]), argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the signal was asked for
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  no shell, and the command is the supervisor's own


if __name__ == "__main__":
    main(sys.argv)
