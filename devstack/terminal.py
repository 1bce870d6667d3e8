"""Output of the command line: unbuffered, printable lines on standard output and standard error."""

import sys

from marketdata.printable import write_error, write_lines


def print_line(line: str) -> None:
    """Print a line, or the lines of an error with the end of a log, to standard output."""
    write_lines(sys.stdout, line)


def print_error(line: str) -> None:
    """Print an error, a line or with the end of a log, to standard error."""
    write_error(sys.stderr, line)
