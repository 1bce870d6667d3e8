"""Rolling features of one market: add ticks in any order of arrival within the lateness, merge states, get the row.

Definitions and units are in docs/features.md. `MarketFeatures` is the whole state of a market. `flush` returns what to
write to a changelog, and `restore` rebuilds the state from any prefix of those writes, as a crash leaves it.
"""

import math
import struct
from collections.abc import Callable

import msgspec

from marketdata.bounds import MAX_AMOUNT, MAX_PRICE, MIN_PRICE
from marketdata.errors import InvalidValueError
from marketdata.records import FeatureRow
from marketdata.times import HOUR_MS, MINUTE_MS, SECOND_MS, to_rfc3339
from marketdata.window_features import window_features
from marketdata.windows import (
    CLOSE,
    HIGH,
    IMBALANCE_SUM,
    IMBALANCES,
    LIQUIDITY_SUM,
    LOW,
    MIDS,
    NEVER_MS,
    OPEN,
    SIZES,
    SPREAD_MAX,
    SPREAD_SUM,
    T_CLOSE,
    T_OPEN,
    TICKS,
    TRADES,
    VALUE,
    VERSION,
    VOLUME,
    WINDOWS,
    Ring,
    empty_bucket,
    pack_bucket,
    unpack_buckets,
)

EWMA_HALF_LIFE_MS = 10 * MINUTE_MS
EWMA_WINDOW = next(i for i, window in enumerate(WINDOWS) if window.length_ms == HOUR_MS)
JOURNAL_SIZE = 32
HEAD = "h"

_DECAY = tuple(
    0.5 ** (window.slot_ms / EWMA_HALF_LIFE_MS) if i == EWMA_WINDOW else 0.0 for i, window in enumerate(WINDOWS)
)
_PAGE_AT = 8  # changed slots above which the whole page is written instead
_WHOLE_AT = 48_000  # bytes of a journal entry above which the whole state is written instead; it is smaller
_ENTRY = struct.Struct("<BQqqIiqdd")
_NAN = math.nan


class _Head(msgspec.Struct, array_like=True, frozen=True):
    version: int
    seq: int
    newest_ms: int
    mid: float | None
    spread_bps: float | None
    row_ms: int
    revision: int
    offsets: dict[int, int]
    rings: list[tuple[int, bytes]]


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


class MarketFeatures:
    """The state of one market. `late` counts the ticks that `add` refused since the object was created."""

    __slots__ = (
        "_bucket",
        "_deltas",
        "_head_seq",
        "_lateness_ms",
        "_merged",
        "_revision",
        "_rings",
        "_row_ms",
        "_second",
        "_seq",
        "late",
        "mid",
        "newest_ms",
        "offsets",
        "spread_bps",
        "symbol",
    )

    def __init__(self, symbol: str, lateness_ms: int = 120_000) -> None:
        """Create a state without ticks. `add` refuses ticks more than `lateness_ms` older than the newest."""
        self.symbol = symbol
        self.newest_ms = NEVER_MS
        self.mid: float | None = None
        self.spread_bps: float | None = None
        self.offsets: dict[int, int] = {}
        self.late = 0
        self._lateness_ms = lateness_ms
        self._rings = tuple(Ring(window) for window in WINDOWS)
        self._second = NEVER_MS
        self._bucket = empty_bucket()
        self._row_ms = NEVER_MS
        self._revision = 0
        self._seq = 0
        self._head_seq = 0
        self._deltas: list[bytes] = []
        self._merged = False  # a journal of ticks cannot represent a merge: the next flush writes the whole state

    def mark_seen(self, partition: int, offset: int) -> bool:
        """Return whether the state already contains that record of the source topic, and mark it as contained."""
        if offset <= self.offsets.get(partition, -1):
            return True
        self.offsets[partition] = offset
        return False

    def add(  # noqa: C901, PLR0912  one pass without calls: it runs for every tick
        self,
        timestamp_ms: int,
        bid_price: float | None,
        bid_qty: float | None,
        ask_price: float | None,
        ask_qty: float | None,
        volume: float | None = None,
        quote_volume: float | None = None,
    ) -> bool:
        """Add one tick. The caller skips duplicates: there is one tick per market and timestamp.

        Args:
            timestamp_ms: event time.
            bid_price: in the quote currency. The tick has a mid if 0 < bid <= ask and both prices are within
                `marketdata.bounds`; quantities and volumes outside the bounds are ignored.
            bid_qty: in the base coin.
            ask_price: in the quote currency.
            ask_qty: in the base coin.
            volume: base coin traded in the time that the tick covers; None: unknown.
            quote_volume: the same in the quote currency.

        Returns:
            False if the tick is later than the lateness allows; the state is then unchanged.
        """
        newest = self.newest_ms
        is_newest = timestamp_ms > newest
        if is_newest:
            self.newest_ms = timestamp_ms
            self.mid = self.spread_bps = None
        elif timestamp_ms < newest - self._lateness_ms:
            self.late += 1
            return False
        second = timestamp_ms - timestamp_ms % SECOND_MS
        if second != self._second:
            self._fold()
            self._second = second
        b = self._bucket
        b[TICKS] += 1
        if bid_price is not None and ask_price is not None and MIN_PRICE <= bid_price <= ask_price <= MAX_PRICE:
            mid = (bid_price + ask_price) / 2
            spread = (ask_price - bid_price) / mid * 10_000
            if is_newest:
                self.mid = mid
                self.spread_bps = spread
            if b[MIDS]:
                if timestamp_ms > b[T_CLOSE]:
                    b[T_CLOSE] = timestamp_ms
                    b[CLOSE] = mid
                elif timestamp_ms < b[T_OPEN]:
                    b[T_OPEN] = timestamp_ms
                    b[OPEN] = mid
                if mid > b[HIGH]:
                    b[HIGH] = mid
                elif mid < b[LOW]:
                    b[LOW] = mid
                if spread > b[SPREAD_MAX]:  # noqa: PLR1730  max() is a call
                    b[SPREAD_MAX] = spread
            else:
                b[T_OPEN] = b[T_CLOSE] = timestamp_ms
                b[OPEN] = b[CLOSE] = b[HIGH] = b[LOW] = mid
                b[SPREAD_MAX] = spread
            b[MIDS] += 1
            b[SPREAD_SUM] += spread
            if bid_qty is not None and ask_qty is not None and (liquidity := bid_qty + ask_qty) <= MAX_AMOUNT:
                b[SIZES] += 1
                b[LIQUIDITY_SUM] += liquidity
                if liquidity > 0:
                    b[IMBALANCES] += 1
                    b[IMBALANCE_SUM] += (bid_qty - ask_qty) / liquidity
        if volume is not None and quote_volume is not None and max(volume, quote_volume) <= MAX_AMOUNT:
            b[TRADES] += 1
            b[VOLUME] += volume
            b[VALUE] += quote_volume
        return True

    def merge(self, other: "MarketFeatures") -> None:
        """Merge a state made from other ticks of the same market into this one.

        Raises:
            InvalidValueError: the state is another market's.
        """
        if other.symbol != self.symbol:
            raise InvalidValueError("symbol", other.symbol, self.symbol)
        self._fold()
        other._fold()  # noqa: SLF001  same class
        for ring, theirs in zip(self._rings, other._rings, strict=True):  # noqa: SLF001
            if theirs.newest > ring.newest:
                ring.advance(theirs.newest)
            for start_ms, bucket in unpack_buckets(theirs.pack(theirs.slots())):
                ring.fold(start_ms, bucket)
        if other.newest_ms > self.newest_ms:
            self.newest_ms, self.mid, self.spread_bps = other.newest_ms, other.mid, other.spread_bps
        for partition, offset in other.offsets.items():
            self.offsets[partition] = max(offset, self.offsets.get(partition, -1))
        self._merged = True

    def result(self) -> FeatureRow:
        """Return the row as of the newest tick; each call for the same instant increments the revision.

        Raises:
            InvalidValueError: there is no tick yet.
        """
        newest = self.newest_ms
        if newest == NEVER_MS:
            raise InvalidValueError("features", self.symbol, "at least one tick")
        self._fold()
        self._revision = self._revision + 1 if newest == self._row_ms else 0
        self._row_ms = newest
        return FeatureRow(
            symbol=self.symbol,
            timestamp=to_rfc3339(newest),
            revision=self._revision,
            mid=self.mid,
            spread_bps=self.spread_bps,
            ewma_volatility=self._ewma(),
            windows={
                ring.window.name: window_features(ring, decay) for ring, decay in zip(self._rings, _DECAY, strict=True)
            },
        )

    def _ewma(self) -> float | None:
        ring = self._rings[EWMA_WINDOW]
        closed = ring.closed(_DECAY[EWMA_WINDOW])
        total, weight = closed.ewma_sum, closed.ewma_weight
        if ring.current[MIDS] and closed.first_open is not None:
            total += math.log(ring.current[CLOSE] / closed.last_close) ** 2
            weight += ring.newest - closed.last_slot
        return math.sqrt(total / weight) if weight else None

    def _fold(self) -> None:
        """Merge the current second into all windows and add it to the next journal entry."""
        bucket = self._bucket
        if not bucket[TICKS]:
            return
        second = self._second
        for ring in self._rings:
            ring.fold(second, bucket)
        self._deltas.append(pack_bucket(second, bucket))
        self._bucket = empty_bucket()
        self._second = NEVER_MS

    def flush(self) -> dict[str, bytes]:
        """Return what to write to the changelog, value by key suffix, in this order; empty if nothing changed.

        Usually one journal entry (`j0`…): the ticks since the last flush, aggregated by second. After `JOURNAL_SIZE`
        entries also a head (`h`) and the pages (`p0`…) of the windows with many changed slots. Suffixes are reused, so
        a compacted topic holds at most 38 records per market. Deliver the rows computed so far before these writes,
        because the ticks in them are not replayed after a restart.
        """
        self._fold()
        if not self._deltas and not self._merged:
            return {}
        self._seq += 1
        deltas, self._deltas = b"".join(self._deltas), []
        if self._merged or len(deltas) > _WHOLE_AT:
            self._merged = False
            return {HEAD: self._head(whole=True)}
        out = {f"j{self._seq % JOURNAL_SIZE}": self._entry(deltas)}
        if self._seq - self._head_seq >= JOURNAL_SIZE:
            for i, ring in enumerate(self._rings):
                if len(ring.dirty) > _PAGE_AT:
                    out[f"p{i}"] = ring.to_page(self._seq)
                    ring.dirty.clear()
            out[HEAD] = self._head(whole=False)
        return out

    def _entry(self, deltas: bytes) -> bytes:
        partition, offset = max(self.offsets.items(), key=lambda item: item[1], default=(-1, -1))
        header = _ENTRY.pack(
            VERSION,
            self._seq,
            self.newest_ms,
            self._row_ms,
            self._revision,
            partition,
            offset,
            _NAN if self.mid is None else self.mid,
            _NAN if self.spread_bps is None else self.spread_bps,
        )
        return header + deltas

    def _head(self, *, whole: bool) -> bytes:
        self._head_seq = self._seq
        rings = []
        for ring in self._rings:
            oldest = ring.newest - ring.window.n_slots
            ring.dirty = {slot for slot in ring.dirty if slot > oldest}
            rings.append((ring.newest, ring.pack(ring.slots() if whole else sorted(ring.dirty))))
        head = _Head(
            VERSION,
            self._seq,
            self.newest_ms,
            self.mid,
            self.spread_bps,
            self._row_ms,
            self._revision,
            self.offsets,
            rings,
        )
        return _encode_head(head)

    @classmethod
    def restore(cls, symbol: str, get: Callable[[str], bytes | None], lateness_ms: int = 120_000) -> "MarketFeatures":
        """Rebuild the state from the writes of `flush`; any prefix of them, in order, gives the state as of one flush.

        Args:
            symbol: the market.
            get: returns the last value written under a suffix, None if there is none.
            lateness_ms: see `__init__`.

        Raises:
            InvalidValueError: the bytes are of another version or inconsistent.
        """
        state = cls(symbol, lateness_ms)
        try:
            state._restore(get)
        except (msgspec.DecodeError, struct.error) as error:
            raise InvalidValueError("state", symbol, f"features state of version {VERSION} ({error})") from error
        return state

    def _restore(self, get: Callable[[str], bytes | None]) -> None:
        levels = []
        for i, ring in enumerate(self._rings):
            page = get(f"p{i}")
            levels.append(ring.load_page(page) if page else 0)
        data = get(HEAD)
        if data:
            head = _decode_head(data)
            _check_version(head.version)
            self._seq = self._head_seq = head.seq
            self.newest_ms, self.mid, self.spread_bps = head.newest_ms, head.mid, head.spread_bps
            self._row_ms, self._revision, self.offsets = head.row_ms, head.revision, dict(head.offsets)
            for i, (ring, (newest, slots)) in enumerate(zip(self._rings, head.rings, strict=True)):
                if head.seq > levels[i]:
                    levels[i] = head.seq
                    ring.apply(newest, slots)
        while (entry := get(f"j{(self._seq + 1) % JOURNAL_SIZE}")) and self._replay(entry, levels):
            pass
        if max(levels) > self._seq:
            raise InvalidValueError("state", max(levels), f"no page newer than the journal's end {self._seq}")

    def _replay(self, entry: bytes, levels: list[int]) -> bool:
        version, seq, newest, row_ms, revision, partition, offset, mid, spread = _ENTRY.unpack_from(entry)
        _check_version(version)
        if seq != self._seq + 1:
            return False
        self._seq = seq
        self.newest_ms, self._row_ms, self._revision = newest, row_ms, revision
        self.mid = None if math.isnan(mid) else mid
        self.spread_bps = None if math.isnan(spread) else spread
        if partition >= 0:
            self.offsets[partition] = offset
        for start, bucket in unpack_buckets(memoryview(entry)[_ENTRY.size :]):
            for ring, level in zip(self._rings, levels, strict=True):
                if seq > level:
                    ring.fold(start, bucket)
        return True


def _check_version(version: int) -> None:
    if version != VERSION:
        raise InvalidValueError("state.version", version, str(VERSION))
