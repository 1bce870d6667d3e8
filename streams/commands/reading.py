"""Commands that show what is on the topics: tail, features, predictions, dead-letters."""

from collections import Counter
from typing import Any

import msgspec
from aiokafka.structs import ConsumerRecord
from faust.cli import argument, option

from marketdata.errors import InvalidValueError
from marketdata.records import DeadLetter, FeatureRow, Prediction, Record
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from streams.commands.finding import decoded, find_topic, newest
from streams.commands.frame import JSON_OPTION, StreamsCommand
from streams.reading import TopicReader

_FEATURES_TAIL = 2_000
_PREDICTIONS_TAIL = 2_000
_LETTERS_TAIL = 20_000
_COLUMNS = (
    "n_ticks",
    "coverage",
    "last",
    "log_return",
    "realised_volatility",
    "mean_spread_bps",
    "mean_liquidity",
    "imbalance",
    "vwap",
)


class tail(StreamsCommand):  # noqa: N801  Faust names a command by its class
    """Show the newest records of a topic, decoded."""

    options = [  # noqa: RUF012  Faust's name and type
        argument("topic"),
        option("-n", "--count", type=int, default=10, show_default=True, help="Records of each partition."),
        option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C."),
        JSON_OPTION,
    ]

    async def run(self, topic: str, count: int, *, follow: bool, as_json: bool) -> None:
        name, cls = find_topic(self.app.settings, topic)
        as_json = as_json or self.json
        async with TopicReader(self.app.settings.kafka, name) as reader:
            froms, ends = await reader.tails(count)
            found = [record async for record in reader.between(froms, ends)]
            for record in sorted(found, key=lambda raw: (raw.timestamp, raw.partition, raw.offset)):
                self._show(record, cls, as_json=as_json)
            if follow:
                async for record in reader.follow(ends):
                    self._show(record, cls, as_json=as_json)

    def _show(self, raw: ConsumerRecord, cls: type[Record], *, as_json: bool) -> None:
        record = decoded(cls, raw)
        if as_json:
            value: Any = msgspec.to_builtins(record) if record is not None else None
            line = {
                "partition": raw.partition,
                "offset": raw.offset,
                "arrived": to_rfc3339(raw.timestamp),
                "key": None if raw.key is None else raw.key.decode(errors="replace"),
                "record": value,
            }
            self.lines([line])
            return
        where = f"[dim]{raw.partition}@{raw.offset} {to_rfc3339(raw.timestamp)}[/dim]"
        if record is None:
            self.console.print(f"{where} [red]not a {cls.__name__}:[/red]", end=" ")
            self.console.print(repr(raw.value)[:200], markup=False)
            return
        fields = {
            field: value
            for field, value in msgspec.to_builtins(record).items()
            if value is not None and field not in {"symbol", "schema_version", "tick_id"}
        }
        self.console.print(f"{where} [bold cyan]{record.symbol}[/bold cyan]", end=" ")
        self.console.print(" ".join(f"{field}={value}" for field, value in fields.items()), markup=False)
        self.stdout.flush()


class features(StreamsCommand):  # noqa: N801
    """Show the newest rolling features of a market."""

    options = [argument("market"), JSON_OPTION]  # noqa: RUF012

    async def run(self, market: str, *, as_json: bool) -> None:
        settings = self.app.settings
        if market not in settings.markets:
            raise InvalidValueError("market", market, f"one of {', '.join(settings.markets)}")
        rows = await newest(settings, TopicRole.FEATURES, FeatureRow, _FEATURES_TAIL, lambda row: row.symbol == market)
        if not rows:
            raise InvalidValueError(
                "market", market, "a market with rows on the features topic; is the worker running?"
            )
        row = max(rows, key=lambda one: (one.timestamp_ms, one.revision))
        if as_json or self.json:
            self.lines([row])
            return
        self.console.print(
            f"[bold cyan]{row.symbol}[/bold cyan] {row.timestamp} revision {row.revision}  mid {row.mid}  "
            f"spread {row.spread_bps} bps  EWMA volatility {row.ewma_volatility}"
        )
        self.table(
            ("window", *_COLUMNS),
            [(name, *(getattr(window, column) for column in _COLUMNS)) for name, window in row.windows.items()],
        )


class predictions(StreamsCommand):  # noqa: N801
    """Show the newest predictions."""

    options = [  # noqa: RUF012
        option("-n", "--count", type=int, default=20, show_default=True, help="How many."),
        JSON_OPTION,
    ]

    async def run(self, count: int, *, as_json: bool) -> None:
        found = await newest(self.app.settings, TopicRole.PREDICTIONS, Prediction, _PREDICTIONS_TAIL)
        found = found[-count:]
        if as_json or self.json:
            self.lines(found)
            return
        self.table(
            ("market", "target hour", "price", "lower", "upper", "level", "last price", "model", "role", "issued"),
            [
                (
                    one.symbol,
                    one.target_start,
                    one.pred_avg_price,
                    one.lower,
                    one.upper,
                    one.interval_level,
                    one.last_price,
                    one.model_version,
                    one.role,
                    one.issued_at,
                )
                for one in found
            ],
        )


class dead_letters(StreamsCommand):  # noqa: N801
    """List refused records, or count them by reason."""

    options = [  # noqa: RUF012
        option("--counts", is_flag=True, help="Count by reason instead of listing."),
        option("--reason", help="Only this reason code."),
        option("-n", "--count", type=int, default=20, show_default=True, help="How many to list."),
        JSON_OPTION,
    ]

    async def run(self, *, counts: bool, reason: str | None, count: int, as_json: bool) -> None:
        letters = await newest(
            self.app.settings,
            TopicRole.DEAD_LETTERS,
            DeadLetter,
            _LETTERS_TAIL,
            lambda letter: reason is None or letter.reason == reason,
        )
        # A crash between refusing and committing refuses again: where a record lay is what it is.
        letters = list({(one.topic, one.partition, one.offset): one for one in letters}.values())
        as_json = as_json or self.json
        if counts:
            rows = Counter((one.reason, one.field) for one in letters).most_common()
            if as_json:
                self.lines([{"reason": why, "field": field, "count": number} for (why, field), number in rows])
            else:
                self.table(("reason", "field", "count"), [(why, field, number) for (why, field), number in rows])
            return
        if as_json:
            self.lines(letters[-count:])
            return
        self.table(
            ("refused at", "reason", "field", "value", "expected", "where"),
            [
                (
                    one.refused_at,
                    one.reason,
                    one.field,
                    one.value[:60],
                    one.expected,
                    f"{one.topic}-{one.partition}@{one.offset}",
                )
                for one in letters[-count:]
            ],
        )
