"""What the commands print about records from outside is printable: nothing in them acts on the terminal."""

import io

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord

from marketdata.codec import encode
from marketdata.errors import BitcoinDataError
from marketdata.printable import printable
from marketdata.records import DeadLetter, Prediction, Record, Tick
from streams.commands.dead_letters import dead_letters
from tests.fuzz.handlers import printing
from tests.support.builders import START_MS, dead_letter, prediction, tick

HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\r\n2026 INFO root: fine \x9b31m \u202egnp.exe\u2066"
RECORDS: tuple[Record, ...] = (
    dead_letter(symbol=HOSTILE, field=HOSTILE, value=HOSTILE, expected=HOSTILE, topic=HOSTILE, key=HOSTILE),
    prediction(START_MS, model_version=HOSTILE),
    msgspec.structs.replace(tick(), flags=[HOSTILE]),
)


class Terminal(io.StringIO):
    """A terminal, for which Rich adds colours, or a file."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def shown(sink: Terminal) -> str:
    """The output without the colours of the commands themselves."""
    text = sink.getvalue()
    for style in ("0", "1", "2", "31", "32", "1;36", "1;31"):
        text = text.replace(f"\x1b[{style}m", "")
    return text


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_are_printed_on_one_line_each(
    record: Record, monkeypatch: pytest.MonkeyPatch, *, as_json: bool, is_terminal: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    sink = Terminal(is_terminal=is_terminal)
    raw = ConsumerRecord("topic", 0, 7, START_MS, 0, HOSTILE.encode(), encode(record), None, 0, 0, ())
    printing(sink)._show(raw, type(record), as_json=as_json)
    (line, end) = shown(sink).split("\n")
    assert (line, end) == (printable(line), "")
    if as_json:
        assert msgspec.json.decode(line)["key"] == HOSTILE


def test_undecodable_bytes_are_printed_on_one_line() -> None:
    for cls in (Tick, DeadLetter, Prediction):
        sink = Terminal(is_terminal=False)
        raw = ConsumerRecord("topic", 0, 7, START_MS, 0, None, HOSTILE.encode(), None, 0, 0, ())
        printing(sink)._show(raw, cls, as_json=False)
        assert sink.getvalue().count("\n") == 1
        assert printable(sink.getvalue()[:-1]) == sink.getvalue()[:-1]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_tables_of_dead_letters_are_printable(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    letter = RECORDS[0]
    assert isinstance(letter, DeadLetter)
    for as_json in (False, True):
        for show in (dead_letters._show_list, dead_letters._show_counts):
            sink = Terminal(is_terminal=is_terminal)
            show(printing(sink), [letter], as_json=as_json)  # type: ignore[arg-type]  uses the output of any command
            lines = shown(sink).split("\n")
            assert [line for line in lines if printable(line) != line] == []
            assert "owned" in shown(sink)


def test_a_commands_error_is_printable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(*_words: object) -> int:
        raise BitcoinDataError(HOSTILE)

    command = printing(Terminal(is_terminal=False))
    monkeypatch.setattr(command, "run", run, raising=False)
    for name, value in (("args", ()), ("kwargs", {}), ("ctx", type("Context", (), {"info_name": "tail"}))):
        monkeypatch.setattr(command, name, value, raising=False)
    with pytest.raises(SystemExit, match="1"):
        command()
    first, *others = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert first.startswith("tail: ")
    assert [line for line in (first, *others) if printable(line) != line] == []
    assert all(line.startswith("  ") for line in others)
