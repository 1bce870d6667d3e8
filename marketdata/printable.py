r"""Text from outside, made safe to print: no character moves the cursor, ends the line or reorders the text.

Terminals act on control characters (ESC, CR, backspace, the C1 set), a newline starts what looks like another line of a
log, and bidirectional formatting shows text in another order than it has (CVE-2021-42574). Such characters are replaced
by the escapes of JSON strings (RFC 8259), so that JSON stays valid with the same content.
"""

import re
from typing import IO

_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f"  # C0 without the harmless tab, DEL, and C1
    "\xad\u061c\u180e\u200b-\u200f"  # invisible characters and marks of direction
    "\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # separators of lines, overrides and isolates of direction
    "\ud800-\udfff\U000e0000-\U000e007f]"  # halves of surrogate pairs, which no encoding can write, and invisible tags
)
_SHORT = {"\n": r"\n", "\r": r"\r"}


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in _SHORT:
        return _SHORT[character]
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(rf"\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def printable(text: str) -> str:
    r"""Return the text on one line, with `\u001b` for ESC, `\n` for a newline, and so on; other text is unchanged."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return a text of several lines with each line made printable; for text whose newlines are its own."""
    return "\n".join(map(printable, text.split("\n")))


def write_line(stream: IO[str], text: str) -> None:
    """Write the text as one printable line, and flush."""
    stream.write(f"{printable(text)}\n")
    stream.flush()


def write_lines(stream: IO[str], text: str) -> None:
    """Write a text whose newlines are its own, with each line made printable, and flush."""
    stream.write(f"{printable_lines(text)}\n")
    stream.flush()


def write_error(stream: IO[str], text: str) -> None:
    """Write an error message as printable lines, and flush.

    Lines after the first are indented, so that none looks like a message of its own.
    """
    first, *others = text.split("\n")
    write_lines(stream, "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in others)]))
