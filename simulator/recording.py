"""Recorded WebSocket traffic: gzip files with one message per line, "receive time in ns, space, raw JSON"."""

import gzip
import heapq
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from marketdata.errors import InvalidValueError

_STREAM = re.compile(r'\{"stream":"([^"]+)",')


@dataclass(frozen=True, slots=True)
class Message:
    """A recorded message of a combined stream; `offset_ms` counts from the recording's first message."""

    offset_ms: float
    stream: str
    raw: str

    @property
    def data(self) -> str:
        """Return the payload without the wrapper, as a single-stream connection sends it."""
        return self.raw[len(self.stream) + len('{"stream":"","data":') : -1]


class Recording:
    """One or more files merged by receive time. Lines without a stream name (snapshots) are skipped."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the files once to count the messages.

        Raises:
            InvalidValueError: a file cannot be read, or a line has another format.
        """
        self._paths = tuple(paths)
        self.counts: dict[str, int] = {}
        first_ns: int | None = None
        for at_ns, stream, _ in self._lines():
            first_ns = at_ns if first_ns is None else first_ns
            self.counts[stream] = self.counts.get(stream, 0) + 1
        self._first_ns = first_ns or 0

    @property
    def streams(self) -> frozenset[str]:
        """Return the names of the recorded streams."""
        return frozenset(self.counts)

    def messages(self, streams: frozenset[str]) -> Iterator[Message]:
        """Yield the messages of some streams in recorded order."""
        for at_ns, stream, raw in self._lines():
            if stream in streams:
                yield Message((at_ns - self._first_ns) / 1e6, stream, raw)

    def _lines(self) -> Iterator[tuple[int, str, str]]:
        return heapq.merge(*(self._file(path) for path in self._paths), key=lambda line: line[0])

    @staticmethod
    def _file(path: Path) -> Iterator[tuple[int, str, str]]:
        try:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    at_ns, _, raw = line.rstrip("\n").partition(" ")
                    if not at_ns.isdigit():
                        raise InvalidValueError(f"{path.name} line {number}", line, "receive time in ns, space, JSON")
                    named = _STREAM.match(raw)
                    if named is None:
                        continue
                    if not raw[named.end() :].startswith('"data":'):
                        raw = json.dumps(json.loads(raw), separators=(",", ":"))
                    yield int(at_ns), named.group(1), raw
        except (OSError, EOFError, ValueError) as error:
            raise InvalidValueError("ws-recording", f"{path}: {error}", "a gzip file of recorded messages") from error
