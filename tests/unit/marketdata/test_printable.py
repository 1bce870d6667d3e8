"""Characters from outside that a terminal or a log acts on."""

import io
import json
import logging
import unicodedata

import pytest

from marketdata.log_format import LineFormatter
from marketdata.printable import printable, printable_lines, write_error, write_line, write_lines

ACTS = [
    chr(code)
    for code in range(0x110000)
    if chr(code) != "\t"
    and (
        unicodedata.category(chr(code)) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(chr(code)) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    )
]
HOSTILE = "BTC\x1b[2J\x1b]0;title\x07\r\n2026-11-28 INFO root: fine\x9b31m\u202egnp.exe\u2028\udc80\x00"


def test_no_character_that_acts_on_a_terminal_remains() -> None:
    assert len(ACTS) > 2_000
    assert [character for character in ACTS if printable(f"a{character}b").isprintable() is False] == []


def test_other_text_is_unchanged() -> None:
    text = "Preis: 1.234,5 €\u00a0✓ — 日本語 \u0645\u0631\u062d\u0628\u0627 👍 a\tb \\n"
    assert printable(text) == text


def test_the_escapes_are_those_of_json() -> None:
    assert printable("\x1b\n\r\x9b\U000e0041") == r"\u001b\n\r\u009b\udb40\udc41"
    document = {"symbol": HOSTILE.replace("\udc80", ""), "tag": "\U000e0041"}
    line = printable(json.dumps(document, ensure_ascii=False))
    assert line.isprintable()
    assert json.loads(line) == document


def test_a_line_stays_one_line_and_lines_keep_theirs() -> None:
    stream = io.StringIO()
    write_line(stream, HOSTILE)
    write_lines(stream, "a\n b\x1b")
    first, *others = stream.getvalue().split("\n")
    assert first.isprintable()
    assert others == ["a", r" b\u001b", ""]
    assert printable_lines("") == ""


def test_the_further_lines_of_an_error_are_indented() -> None:
    stream = io.StringIO()
    write_error(stream, f"settings refused:\n  kafka: {HOSTILE}")
    first, *others = stream.getvalue().removesuffix("\n").split("\n")
    assert first == "settings refused:"
    assert len(others) == 2
    assert all(line.startswith("  ") and line.isprintable() for line in others)


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    failure = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord(HOSTILE, logging.ERROR, "file", 1, message, args, failure)


def test_a_log_record_is_one_line_whatever_it_contains() -> None:
    text = LineFormatter().format(record("skipped %s: %s", HOSTILE, ValueError(HOSTILE)))
    assert text.isprintable()
    assert "BTC" in text


def test_a_traceback_is_indented_so_that_no_line_of_it_looks_like_an_event() -> None:
    def fail() -> None:
        raise ValueError(HOSTILE)

    with pytest.raises(ValueError, match="BTC") as caught:
        fail()
    made = record("failed", error=caught.value)
    made.stack_info = f"Stack\n{HOSTILE}"
    first, *others = LineFormatter().format(made).split("\n")
    assert first.endswith("failed")
    assert len(others) > 4
    assert all(line.startswith("  ") and line.replace("\t", "").isprintable() for line in others)
