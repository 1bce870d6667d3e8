"""Rolling windows of event time as rings of mergeable slots: the storage of `marketdata.features`.

A window of length W has slots of `slot_ms` on the epoch's grid. As of an instant t it covers
[end - W, end) with end = floor(t / slot) x slot + slot. It advances slot by slot and always contains the slot of t, so
it reaches back between W - slot and W. The aggregates of a slot are sums, extremes, and the first and last mid by
event time; they can be merged in any order.
"""

import math
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marketdata.errors import InvalidValueError
from marketdata.times import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

Bucket = list[float]

# The columns of a bucket. Times are ms of event time; a *_SUM belongs to the nearest count before it.
TICKS, MIDS, T_OPEN, T_CLOSE, OPEN, CLOSE, HIGH, LOW, SPREAD_SUM, SPREAD_MAX = range(10)
SIZES, LIQUIDITY_SUM, IMBALANCES, IMBALANCE_SUM, TRADES, VOLUME, VALUE, MINUTES = range(10, 18)
WIDTH = 18

_NONE: tuple[float, ...] = (0, 0, 0, 0, 0.0, 0.0, -math.inf, math.inf, 0.0, -math.inf, 0, 0.0, 0, 0.0, 0, 0.0, 0.0, 0)
_BUCKET = struct.Struct("<q5IIIH10d")  # start_ms, 5 counts, 2 times from start_ms, minutes, 10 numbers
_PAGE = struct.Struct("<BQq")  # version, seq, newest slot
VERSION = 1
NEVER_MS = -(2**62)


@dataclass(frozen=True, slots=True)
class Window:
    """A rolling window. `slot_ms` divides `length_ms` and is a multiple of 1,000."""

    name: str
    length_ms: int
    slot_ms: int

    @property
    def n_slots(self) -> int:
        return self.length_ms // self.slot_ms

    def edges(self, timestamp_ms: int) -> tuple[int, int]:
        """Return [start, end) in ms of the window as of an instant."""
        end = timestamp_ms - timestamp_ms % self.slot_ms + self.slot_ms
        return end - self.length_ms, end


WINDOWS = (
    Window("1m", MINUTE_MS, SECOND_MS),
    Window("5m", 5 * MINUTE_MS, 5 * SECOND_MS),
    Window("15m", 15 * MINUTE_MS, 15 * SECOND_MS),
    Window("1h", HOUR_MS, MINUTE_MS),
    Window("24h", DAY_MS, 10 * MINUTE_MS),
)


def empty_bucket() -> Bucket:
    """Return a bucket without ticks: the identity of `merge_bucket`."""
    return list(_NONE)


def merge_bucket(into: Bucket, other: Bucket) -> None:
    """Merge `other` into `into`; the order of merging does not matter."""
    if not into[TICKS]:
        into[:MINUTES] = other[:MINUTES]
        return
    into[TICKS] += other[TICKS]
    if other[MIDS]:
        if into[MIDS]:
            into[MIDS] += other[MIDS]
            if other[T_OPEN] < into[T_OPEN]:
                into[T_OPEN] = other[T_OPEN]
                into[OPEN] = other[OPEN]
            if other[T_CLOSE] > into[T_CLOSE]:
                into[T_CLOSE] = other[T_CLOSE]
                into[CLOSE] = other[CLOSE]
            into[HIGH] = max(into[HIGH], other[HIGH])
            into[LOW] = min(into[LOW], other[LOW])
            into[SPREAD_SUM] += other[SPREAD_SUM]
            into[SPREAD_MAX] = max(into[SPREAD_MAX], other[SPREAD_MAX])
        else:
            into[MIDS:SIZES] = other[MIDS:SIZES]
        if other[SIZES]:
            into[SIZES] += other[SIZES]
            into[LIQUIDITY_SUM] += other[LIQUIDITY_SUM]
            into[IMBALANCES] += other[IMBALANCES]
            into[IMBALANCE_SUM] += other[IMBALANCE_SUM]
    if other[TRADES]:
        into[TRADES] += other[TRADES]
        into[VOLUME] += other[VOLUME]
        into[VALUE] += other[VALUE]


def pack_bucket(start_ms: int, bucket: Iterable[float]) -> bytes:
    """Serialise a bucket that starts at `start_ms` as 118 bytes, little-endian."""
    n, mids, first, last, *prices, sizes, liquidity, imbalances, imbalance, trades, volume, value, minutes = bucket
    counts = (int(n), int(mids), int(sizes), int(imbalances), int(trades))
    times = (int(first) - start_ms, int(last) - start_ms) if mids else (0, 0)
    numbers = (liquidity, imbalance, volume, value)
    return _BUCKET.pack(start_ms, *counts, *times, int(minutes), *prices, *numbers)


def unpack_buckets(data: bytes | memoryview) -> Iterator[tuple[int, Bucket]]:
    """Yield (start_ms, bucket) of each bucket in concatenated results of `pack_bucket`.

    Raises:
        InvalidValueError: the length is not a multiple of a bucket's size.
    """
    if len(data) % _BUCKET.size:
        raise InvalidValueError("state", len(data), f"a multiple of {_BUCKET.size} bytes of buckets")
    for fields in _BUCKET.iter_unpack(data):
        start, ticks, mids, sizes, imbalances, trades, first, last, minutes, *x = fields
        prices = (start + first, start + last, *x[:6]) if mids else _NONE[T_OPEN:SIZES]
        yield start, [ticks, mids, *prices, sizes, x[6], imbalances, x[7], trades, x[8], x[9], minutes]


# The aggregate of a run of closed slots: a bucket (where MINUTES is a count), the close of the run's first slot with a
# mid, and the sum of the squared log returns between the closes of its slots.
FIRST_CLOSE, VARIANCE = WIDTH, WIDTH + 1
_RUN_WIDTH = WIDTH + 2
_EMPTY_RUN: Bucket = [*_NONE, 0.0, 0.0]
_NO_RUNS = np.zeros((0, _RUN_WIDTH))
_BITS = np.array([value.bit_count() for value in range(1 << 10)], dtype=np.float64)  # a slot has at most ten minutes
_CELLS = struct.Struct(f"={WIDTH}d")
_EMPTY_SLOT = array("d", _NONE)
_EMPTY_CELLS = {window: array("d", _NONE * window.n_slots) for window in WINDOWS}


def _join(first: Bucket, then: Bucket) -> Bucket:
    """Return the aggregate of two consecutive runs."""
    if not first[TICKS]:
        return then
    if not then[TICKS]:
        return first
    # Unrolled: it runs twice per row, and a loop over the columns takes twice as long.
    n1, mids1, t1, _, open1, last1, high1, low1, sum1, most1, s1, l1, i1, m1, d1, v1, x1, minutes1, close1, sq1 = first
    n2, mids2, _, t2, open2, last2, high2, low2, sum2, most2, s2, l2, i2, m2, d2, v2, x2, minutes2, close2, sq2 = then
    squares = sq1 + sq2
    if not mids1:
        open1, close1 = open2, close2
    elif not mids2:
        last2 = last1
    else:
        squares += math.log(close2 / last1) ** 2
    return [
        *(n1 + n2, mids1 + mids2, t1, t2, open1, last2),
        *(max(high1, high2), min(low1, low2), sum1 + sum2, max(most1, most2)),
        *(s1 + s2, l1 + l2, i1 + i2, m1 + m2, d1 + d2, v1 + v2, x1 + x2),
        *(minutes1 + minutes2, close1, squares),
    ]


@dataclass(slots=True)
class Closed:
    """The aggregate of all slots of a window except the newest; valid until the window advances or a late tick arrives.

    variance: sum of squared log returns from the first mid on. cells: number of minutes with a mid, excluding the
    window's last minute. newest_cell: whether that last minute has a mid in a closed slot.
    """

    bucket: Bucket
    first_open: float | None = None
    last_close: float = 0.0
    variance: float = 0.0
    cells: int = 0
    newest_cell: bool = False
    last_slot: int = NEVER_MS
    ewma_sum: float = 0.0
    ewma_weight: float = 0.0


class Ring:
    """The slots of one window of one market. The cost of adding and summing does not depend on the window's length.

    The newest slot is a plain list (`current`); the closed slots are stored in one array of doubles, slot after slot.
    Their aggregate is kept as two runs, like a queue made of two stacks: for each slot before the split, `_front` holds
    the run from that slot to the split; `_back` is the run from the split on. Advancing by a slot moves one row down
    in `_front` and joins one slot to `_back`. `_front` is rebuilt once per window length, and when a late tick changes
    a closed slot.
    """

    __slots__ = (
        "_back",
        "_closed",
        "_front",
        "_seen",
        "_slot_ms",
        "_split",
        "_view",
        "cells",
        "current",
        "dirty",
        "newest",
        "window",
    )

    def __init__(self, window: Window) -> None:
        self.window = window
        self.newest = NEVER_MS
        self.current = empty_bucket()
        self.cells = array("d", _EMPTY_CELLS[window])
        self.dirty: set[int] = set()
        self._slot_ms = window.slot_ms
        self._view: npt.NDArray[np.float64] = np.frombuffer(self.cells).reshape(window.n_slots, WIDTH)
        self._closed: Closed | None = None
        self._front: npt.NDArray[np.float64] | None = _NO_RUNS
        self._split = NEVER_MS  # the first slot of _back
        self._back: Bucket = _EMPTY_RUN
        self._seen = 0  # one bit per closed slot, set if it has a mid; the newest is the lowest bit

    def fold(self, start_ms: int, bucket: Bucket) -> None:
        """Merge a bucket of one second (or of one slot); a bucket older than the window is ignored."""
        slot_ms = self._slot_ms
        slot = start_ms // slot_ms
        if slot > self.newest:
            self.advance(slot)
        if slot == self.newest:
            into = self.current
        elif slot > self.newest - self.window.n_slots:
            into = self.read(slot)
        else:
            return
        merge_bucket(into, bucket)
        if slot_ms >= MINUTE_MS and bucket[MIDS]:
            # A bucket from a ring has its minutes set; a bucket of one second is within one minute.
            seen = int(bucket[MINUTES]) or 1 << (start_ms % slot_ms // MINUTE_MS)
            into[MINUTES] = int(into[MINUTES]) | seen
        self.dirty.add(slot)
        if slot != self.newest:
            self.write(slot, into)

    def advance(self, slot: int) -> None:
        """Make `slot` the newest slot; slots that leave the window are dropped."""
        n = self.window.n_slots
        newest, current = self.newest, self.current
        self._closed = None
        if newest == NEVER_MS or slot - newest >= n:
            self.cells[:] = _EMPTY_CELLS[self.window]
            self.dirty.clear()
            self._front, self._split, self._back, self._seen = _NO_RUNS, slot, _EMPTY_RUN, 0
        else:
            _CELLS.pack_into(self.cells, newest % n * _CELLS.size, *current)
            for gone in range(newest + 1, slot + 1):
                i = gone % n * WIDTH
                self.cells[i : i + WIDTH] = _EMPTY_SLOT
            if self._front is not None:
                self._close(current, slot - newest)
        self.newest = slot
        self.current = empty_bucket()

    def _close(self, bucket: Bucket, steps: int) -> None:
        """Join the previously newest slot to `_back`."""
        self._seen = (self._seen << 1 | (bucket[MIDS] > 0)) << steps - 1
        if bucket[TICKS]:
            run = [*bucket, bucket[CLOSE], 0.0]
            run[MINUTES] = int(bucket[MINUTES]).bit_count()
            self._back = _join(self._back, run)

    def read(self, slot: int) -> Bucket:
        """Return a copy of one slot of the window."""
        if slot == self.newest:
            return list(self.current)
        i = slot % self.window.n_slots * WIDTH
        return self.cells[i : i + WIDTH].tolist()

    def write(self, slot: int, bucket: Bucket) -> None:
        """Set one slot of the window."""
        if slot == self.newest:
            self.current = list(bucket)
            return
        _CELLS.pack_into(self.cells, slot % self.window.n_slots * _CELLS.size, *bucket)
        self._closed = self._front = None

    def slots(self) -> Iterator[int]:
        """Yield the slots that hold a tick, oldest first."""
        if self.newest == NEVER_MS:
            return
        n = self.window.n_slots
        for slot in range(self.newest - n + 1, self.newest):
            if self.cells[slot % n * WIDTH]:
                yield slot
        if self.current[TICKS]:
            yield self.newest

    def closed(self, ewma_decay: float) -> Closed:
        """Return the aggregate of the closed slots. `ewma_decay`: weight of a return per slot of age; 0: no EWMA."""
        if self._closed is None:
            self._closed = self._summarise(ewma_decay)
        return self._closed

    def _summarise(self, decay: float) -> Closed:
        n_before = self._split - (self.newest - self.window.n_slots + 1)  # slots of the window before the split
        if self._front is None or n_before < 0:
            self._front, self._split, self._back = self._runs(), self.newest, _EMPTY_RUN
            n_before = len(self._front)
        run = self._back
        if 0 < n_before <= len(self._front):
            run = _join(self._front[-n_before].tolist(), run)
        closed = Closed(run)
        if run[MIDS]:
            closed.first_open = run[OPEN]
            closed.last_close = run[CLOSE]
            closed.variance = run[VARIANCE] + math.log(run[FIRST_CLOSE] / run[OPEN]) ** 2
            self._count_minutes(closed)
            if decay:
                self._average(closed, decay)
        return closed

    def _closed_slots(self) -> npt.NDArray[np.float64]:
        at = self.newest % self.window.n_slots
        return np.concatenate((self._view[at + 1 :], self._view[:at]))

    def _runs(self) -> npt.NDArray[np.float64]:
        """Return for each closed slot, oldest first, the run from it to the last closed slot."""
        slots = self._closed_slots()
        runs = np.zeros((len(slots), _RUN_WIDTH))
        backwards = runs[::-1]
        masks = slots[:, MINUTES].astype(np.intp)
        slots[:, MINUTES] = _BITS[masks]
        np.add.accumulate(slots[::-1], out=backwards[:, :WIDTH])
        for column, extreme in ((HIGH, np.maximum), (LOW, np.minimum), (SPREAD_MAX, np.maximum)):
            extreme.accumulate(slots[::-1, column], out=backwards[:, column])
        seen = slots[:, MIDS] > 0
        self._seen = int.from_bytes(np.packbits(seen).tobytes()) >> -len(slots) % 8
        where = np.flatnonzero(seen)
        if where.size:
            closes = slots[where, CLOSE]
            squares = np.zeros(where.size)
            squares[:-1] = np.diff(np.log(closes)) ** 2
            inner = np.add.accumulate(squares[::-1])[::-1]
            # Rows after the last mid have no mid; their prices are not read.
            following = np.minimum(np.searchsorted(where, np.arange(len(slots))), where.size - 1)
            runs[:, OPEN] = slots[where, OPEN][following]
            runs[:, FIRST_CLOSE] = closes[following]
            runs[:, CLOSE] = closes[-1]
            runs[:, VARIANCE] = inner[following]
        return runs

    def _average(self, closed: Closed, decay: float) -> None:
        """Set the exponentially weighted sum of squared returns between closed slots, and the sum of the weights."""
        slots = self._closed_slots()
        where = np.flatnonzero(slots[:, MIDS])
        returns = np.diff(np.log(slots[where, CLOSE]))
        weights = decay ** (len(slots) - where[1:])
        closed.last_slot = self.newest - len(slots) + int(where[-1])
        closed.ewma_sum = float(weights.dot(returns * returns))
        closed.ewma_weight = float(weights.dot(np.diff(where)))

    def _count_minutes(self, closed: Closed) -> None:
        """Set `cells` and `newest_cell`."""
        per_minute = MINUTE_MS // self._slot_ms
        if per_minute <= 1:
            closed.cells = int(closed.bucket[MINUTES])
            return
        n = self.window.n_slots
        slots = self._seen << 1 & (1 << n) - 1  # the lowest bit is the newest slot, which is not closed
        minute = (1 << per_minute) - 1
        closed.newest_cell = slots & minute != 0
        closed.cells = sum(1 for first in range(per_minute, n, per_minute) if slots >> first & minute)

    def pack(self, slots: Iterable[int]) -> bytes:
        """Return the given slots, each serialised by `pack_bucket` and concatenated."""
        slot_ms = self.window.slot_ms
        return b"".join(pack_bucket(slot * slot_ms, self.read(slot)) for slot in slots)

    def apply(self, newest: int, data: bytes | memoryview) -> None:
        """Advance to `newest` and set the slots serialised by `pack`."""
        if newest == NEVER_MS:
            return
        if newest > self.newest:
            self.advance(newest)
        for start, bucket in unpack_buckets(data):
            slot = start // self.window.slot_ms
            self.write(slot, bucket)
            self.dirty.add(slot)

    def to_page(self, seq: int) -> bytes:
        """Serialise the whole ring: version, `seq`, newest slot, and the slots that hold ticks."""
        return _PAGE.pack(VERSION, seq, self.newest) + self.pack(self.slots())

    def load_page(self, page: bytes) -> int:
        """Load the result of `to_page` and return its `seq`.

        Raises:
            InvalidValueError: the page is truncated or of another version.
        """
        if len(page) < _PAGE.size or page[0] != VERSION:
            raise InvalidValueError("state", page[:1], f"a page of features state of version {VERSION}")
        _, seq, newest = _PAGE.unpack_from(page)
        self.apply(newest, memoryview(page)[_PAGE.size :])
        self.dirty.clear()
        return int(seq)
