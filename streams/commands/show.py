"""Commands that show records of the topics: tail, features, predictions."""

from typing import Any

import msgspec
from aiokafka.structs import ConsumerRecord
from faust.cli import argument, option

from clients.kafka.reader import TopicReader
from marketdata.arguments import find_market
from marketdata.errors import InvalidValueError, shorten
from marketdata.records import FeatureRow, Prediction, Record, WindowFeatures
from marketdata.times import to_rfc3339
from marketdata.topics import TopicRole
from streams.commands.arguments import COUNT, decoded, find_role, newest, record_of
from streams.commands.command import JSON_OPTION, StreamsCommand, shown

_MAX_SHOWN = 1_000  # characters of a field: Rich highlights in quadratic time
_MARKET_TAIL = 2_000  # records to read from each partition to find one market's newest
_FEATURES_TAIL = 2_000
_PREDICTIONS_TAIL = 2_000


class tail(StreamsCommand):  # noqa: N801  Faust derives the command name
    """Show the newest records of each partition of a topic, decoded."""

    options = [  # noqa: RUF012  Faust's declaration
        argument("topic"),
        option("-n", "--count", type=COUNT, default=10, show_default=True, help="Records per partition."),
        option("-f", "--follow", is_flag=True, help="Continue with new records until Ctrl-C."),
        option("--market", help="Select this market's records."),
        JSON_OPTION,
    ]

    async def run(self, topic: str, *, count: int, follow: bool, market: str | None, as_json: bool) -> None:
        settings = self.settings
        role = find_role(settings, topic)
        cls = record_of(role)
        key = None if market is None else find_market(market, settings.markets).encode()
        as_json = as_json or self.json
        async with TopicReader(settings.kafka, settings.topic(role).name) as reader:
            froms, ends = await reader.tails(count if key is None else max(count * len(settings.markets), _MARKET_TAIL))
            found = [record async for record in reader.between(froms, ends) if key in {None, record.key}]
            found.sort(key=lambda raw: (raw.timestamp, raw.partition, raw.offset))
            for record in found if key is None else found[-count:]:
                self._show(record, cls, as_json=as_json)
            if follow:
                async for record in reader.follow(ends):
                    if key in {None, record.key}:
                        self._show(record, cls, as_json=as_json)

    def _show(self, raw: ConsumerRecord, cls: type[Record], *, as_json: bool) -> None:
        record = decoded(cls, raw)
        if as_json:
            value: Any = msgspec.to_builtins(record) if record is not None else None
            line = {
                "partition": raw.partition,
                "offset": raw.offset,
                "arrived": _arrived(raw),
                "key": None if raw.key is None else raw.key.decode(errors="replace"),
                "record": value,
            }
            self.lines([line])
            return
        where = (f"{raw.partition}@{raw.offset} {_arrived(raw)} ", "dim")
        if record is None:
            self.styled(where, (f"not a {cls.__name__}: ", "red"), repr(raw.value)[:200])
            return
        fields = {
            field: value
            for field, value in msgspec.to_builtins(record).items()
            if value is not None and field not in {"symbol", "schema_version", "tick_id"}
        }
        shortened = " ".join(shorten(f"{field}={value}", _MAX_SHOWN) for field, value in fields.items())
        self.styled(where, (f"{shorten(record.symbol)} ", "bold cyan"), shortened)


def _arrived(raw: ConsumerRecord) -> str | None:
    """Return a record's timestamp; None if it is no time, as a producer can write on a topic without LogAppendTime."""
    try:
        return to_rfc3339(raw.timestamp)
    except InvalidValueError:
        return None


class features(StreamsCommand):  # noqa: N801
    """Show the newest rolling features of a market."""

    options = [argument("market"), JSON_OPTION]  # noqa: RUF012

    async def run(self, market: str, *, as_json: bool) -> None:
        settings = self.settings
        market = find_market(market, settings.markets)
        rows = await newest(settings, TopicRole.FEATURES, FeatureRow, _FEATURES_TAIL, lambda row: row.symbol == market)
        if not rows:
            raise InvalidValueError(
                "market", market, "a market with rows on the features topic; is the worker running?"
            )
        row = max(rows, key=lambda one: (one.timestamp_ms, one.revision))
        if as_json or self.json:
            self.lines([row])
            return
        self.styled(
            (row.symbol, "bold cyan"),
            f" {row.timestamp} revision {row.revision}  mid {shown(row.mid)}  spread {shown(row.spread_bps)} bps  "
            f"EWMA volatility {shown(row.ewma_volatility)}",
        )
        windows = row.windows.values()
        self.table(
            ("window", *row.windows),
            [(field, *(getattr(window, field) for window in windows)) for field in WindowFeatures.__struct_fields__],
        )
        if all(window.volume is None for window in windows):
            self.line("vwap and volume are unknown: quotes from polls contain no trades (streams.feed)")


class predictions(StreamsCommand):  # noqa: N801
    """Show the newest predictions of one market or of all markets."""

    options = [  # noqa: RUF012
        argument("market", required=False),
        option("-n", "--count", type=COUNT, default=20, show_default=True, help="Maximum number of predictions."),
        JSON_OPTION,
    ]

    async def run(self, market: str | None, *, count: int, as_json: bool) -> None:
        settings = self.settings
        market = None if market is None else find_market(market, settings.markets)
        found = await newest(
            settings, TopicRole.PREDICTIONS, Prediction, _PREDICTIONS_TAIL, lambda one: market in {None, one.symbol}
        )
        found = found[-count:]
        if as_json or self.json:
            self.lines(found)
            return
        if not found:
            made = ", ".join(settings.forecasting.symbols)
            suffix = "" if market is None else f" for {market}"
            self.line(f"none{suffix}; predictions are made for forecasting.symbols: {made}")
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
