"""Commands that act on or check the deployment: collect-once, topics, check."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click
import msgspec
from faust.cli import argument

from exchanges.interface import PollResult, QuoteSource
from marketdata.errors import BitcoinDataError, ConfigurationError
from marketdata.markets import Market
from marketdata.times import floor_to, to_rfc3339
from marketdata.vocabulary import SourceStatus
from streams.collection.build import build_collector, build_feed, poll_plan_warnings
from streams.commands.command import JSON_OPTION, StreamsCommand
from streams.kafka import topics as topic_admin
from streams.kafka.records import OutgoingRecord
from streams.kafka.sender import Sender

_TIMEOUT_S = 5.0  # real seconds; timeout of each check


class collect_once(StreamsCommand):  # noqa: N801  Faust derives the command name
    """Poll every source once, publish the ticks and print them."""

    options = [JSON_OPTION]  # noqa: RUF012  Faust's declaration

    async def run(self, *, as_json: bool) -> int:
        settings, clock = self.settings, self.clock
        await topic_admin.ensure(settings)
        await clock.start(_TIMEOUT_S)
        async with Sender(settings.kafka) as sender:
            collector = build_collector(settings, clock, self.worker_state, sender.publish)
            instant_ms = floor_to(clock.now_ms(), int(settings.streams.poll_interval_s * 1000))
            ticks = await collector.collect(instant_ms, _TIMEOUT_S)
        await self.worker_state.exchanges.close()
        if as_json or self.json:
            self.lines(ticks)
        else:
            columns = ("price", "bid_price", "ask_price", "volume_24h", "market_cap")
            sources = list(ticks[0].sources)
            self.line(f"ticks of {to_rfc3339(instant_ms)}")
            self.table(
                ("market", *columns, *sources),
                [
                    (
                        tick.symbol,
                        *(getattr(tick, name) for name in columns),
                        *(tick.sources[s].status for s in sources),
                    )
                    for tick in ticks
                ],
            )
        return 0 if any(state.status == SourceStatus.OK for tick in ticks for state in tick.sources.values()) else 1


class topics(StreamsCommand):  # noqa: N801
    """Create the topics, or show where the cluster differs from the declared policy (exit code 1 if it does)."""

    options = [argument("action", type=click.Choice(["create", "show"])), JSON_OPTION]  # noqa: RUF012

    async def run(self, action: str, *, as_json: bool) -> int:
        settings = self.settings
        policies = topic_admin.declared(settings, self.worker_state.changelogs)
        as_json = as_json or self.json
        async with topic_admin.TopicAdmin(settings.kafka) as admin:
            created = await admin.create(policies) if action == "create" else []
            drift = await admin.drift(policies)
        differing: dict[str, list[str]] = {}
        for one in drift:
            differing.setdefault(one.topic, []).append(one.text)
        if as_json:
            self.lines(
                [
                    {
                        **msgspec.to_builtins(policy),
                        "created": policy.name in created,
                        "drift": differing.get(policy.name, []),
                    }
                    for policy in policies
                ]
            )
        else:
            states = dict.fromkeys(created, "created") | {
                one.topic: "missing" if one.actual is None else "differs" for one in drift
            }
            self.table(
                ("topic", "partitions", "replicas", "state", "policy"),
                [
                    (
                        policy.name,
                        policy.partitions,
                        policy.replication_factor,
                        states.get(policy.name, "ok"),
                        " ".join(f"{key}={value}" for key, value in policy.config.items()),
                    )
                    for policy in policies
                ],
                wraps=("policy",),
            )
            for one in drift:
                if one.actual is not None:
                    self.line(one.text)
        return 1 if drift else 0


class check(StreamsCommand):  # noqa: N801
    """Check settings, brokers, exchanges and HDFS, and show what each market is called; exit code 1 if one fails."""

    options = [JSON_OPTION]  # noqa: RUF012

    async def run(self, *, as_json: bool) -> int:
        exchanges = self.worker_state.exchanges
        checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("settings", self._settings),
            ("kafka", self._kafka),
            ("clock", self._clock),
            ("markets", self._markets),
            *((source.name, self._source(source)) for source in exchanges.sources),
            *([] if exchanges.stream is None else [("stream", self._stream)]),
            ("hdfs", self._hdfs),
        ]
        results: list[dict[str, Any]] = []
        for name, run_check in checks:
            started = time.monotonic()
            try:
                detail, ok = await run_check(), True
            except BitcoinDataError as error:
                detail, ok = str(error), False
            results.append({"part": name, "ok": ok, "detail": detail, "seconds": time.monotonic() - started})
        await exchanges.close()
        markets = [self._names(market) for market in self.settings.parsed_markets]
        if as_json or self.json:
            self.lines([one | {"markets": markets} if one["part"] == "markets" else one for one in results])
        else:
            for one in results:
                mark = ("✓", "green") if one["ok"] else ("✗", "red")
                self.styled(mark, f" {one['part']:10} {one['detail']}")
            self.table(tuple(markets[0]), [tuple(row.values()) for row in markets])
        return 0 if all(one["ok"] for one in results) else 1

    async def _settings(self) -> str:
        settings = self.settings
        warnings = poll_plan_warnings(settings, self.clock, self.worker_state)
        summary = (
            f"profile {settings.profile}, {len(settings.markets)} markets every {settings.streams.poll_interval_s:g} s"
        )
        return "; ".join([summary, *warnings])

    async def _kafka(self) -> str:
        settings = self.settings
        policies = topic_admin.declared(settings, self.worker_state.changelogs)
        async with topic_admin.TopicAdmin(settings.kafka) as admin:
            drift = await admin.drift(policies)
        if drift:
            raise ConfigurationError("; ".join(one.text for one in drift))
        return f"{settings.kafka.brokers}: {len(policies)} topics as declared"

    async def _clock(self) -> str:
        await self.clock.start(0.0)
        return f"exchange time is {to_rfc3339(self.clock.now_ms())}"

    async def _markets(self) -> str:
        exchanges = self.worker_state.exchanges
        if exchanges.resolver is None:
            return "no exchange with a list of symbols is enabled"
        await exchanges.resolve()
        symbols = exchanges.resolver.symbols
        if not symbols.is_known:
            raise ConfigurationError("the exchange's list of symbols is not available: base and quote are concatenated")
        problems = [problem for market in symbols.markets if (problem := symbols.problem(market)) is not None]
        if problems:
            raise ConfigurationError("; ".join(problems))
        return f"{len(symbols.markets)} markets are listed and trade"

    def _names(self, market: Market) -> dict[str, str | None]:
        """The market's names at the sources; None for a source that is disabled or does not have it."""
        exchanges, own = self.worker_state.exchanges, self.settings
        row: dict[str, str | None] = {"market": market.symbol, "binance": None, "status": None, "coingecko": None}
        if exchanges.resolver is not None and exchanges.resolver.symbols.is_listed(market):
            symbols = exchanges.resolver.symbols
            row |= {"binance": symbols.name(market), "status": symbols.status(market)}
        if own.coingecko.enabled and market.coingecko_id is not None:
            row["coingecko"] = f"{market.coingecko_id} in {market.coingecko_currency}"
        return row

    def _source(self, source: QuoteSource) -> Callable[[], Awaitable[str]]:
        async def run_check() -> str:
            markets = self.settings.parsed_markets
            result: PollResult = await source.poll(markets, _TIMEOUT_S)
            excused = {symbol for symbol, status in result.absent.items() if status == SourceStatus.NO_COIN_ID}
            missing = [one.symbol for one in markets if one.symbol not in {*result.quotes, *excused}]
            if missing:
                raise ConfigurationError(f"no data for {', '.join(missing)}")
            return f"data for {len(result.quotes)} markets"

        return run_check

    async def _stream(self) -> str:
        async def discard(_topic: str, _items: Sequence[OutgoingRecord]) -> None:
            """Publish nothing."""

        feed = build_feed(self.settings, self.clock, self.worker_state, discard, None)
        connections = 0 if feed is None else await feed.probe()
        return f"{self.settings.binance.stream_url}: all markets subscribed, {connections} connection(s)"

    async def _hdfs(self) -> str:
        from clients.webhdfs import WebHdfs  # imports pyarrow and requests, a sixth of a command's start

        hdfs = self.settings.hdfs
        client = WebHdfs(hdfs, timeout_s=_TIMEOUT_S, attempts=1)
        state = "exists" if await asyncio.to_thread(client.exists, hdfs.root) else "does not exist yet"
        return f"{hdfs.webhdfs}: responds; {hdfs.root} {state}"
