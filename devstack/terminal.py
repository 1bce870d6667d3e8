"""Output of the command line: unbuffered lines on standard output and standard error."""

import sys


def print_line(line: str) -> None:
    """Print one line to standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_error(line: str) -> None:
    """Print one line to standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
