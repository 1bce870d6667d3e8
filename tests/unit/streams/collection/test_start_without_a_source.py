"""A start without one exchange, refusing everything or unreachable: the other one's ticks, and the reason in health."""

import pytest

from streams.collection.poller import Collector
from streams.metrics import Metrics
from streams.sources.registry import build_exchanges
from streams.views import responses
from streams.views.follower import KafkaView
from streams.views.read_model import ReadModel
from tests.support.exchange_server import NOON, running_exchange
from tests.support.fake_clock import FakeClock
from tests.support.scripted_collector import Published
from tests.support.stack import settings_with

UNREACHABLE = "http://no-such-host.invalid"
KINDS = {"451": "geo_blocked", "403": "forbidden", "unreachable": "connection"}


@pytest.mark.parametrize("problem", KINDS)
@pytest.mark.parametrize(("missing", "other"), [("binance", "coingecko"), ("coingecko", "binance")])
async def test_the_other_sources_ticks_are_published_and_health_names_host_and_setting(
    missing: str, other: str, problem: str
) -> None:
    async with running_exchange() as exchange:
        urls = {"binance": f"{exchange.address}/binance", "coingecko": f"{exchange.address}/coingecko/api/v3"}
        if problem == "unreachable":
            urls[missing] = UNREACHABLE
        else:
            await exchange.fault(problem, match=f"/{missing}/")
        settings = settings_with(
            {"BDI_MARKETS": "BTC-USD", **{f"BDI_{name.upper()}__BASE_URL": url for name, url in urls.items()}}
        )
        metrics, published = Metrics(), Published(leave_after=2)
        exchanges = build_exchanges(settings, metrics, lambda event_s: event_s)
        collector = Collector(
            markets=settings.parsed_markets,
            sources=exchanges.sources,
            disabled=exchanges.disabled,
            retry_policies=exchanges.retry_policies,
            clock=FakeClock(NOON),
            metrics=metrics,
            publish=published,
            topic="cryptoTopic",
            interval_ms=60_000,
        )
        try:
            await collector.collect(NOON, 1.0)
        finally:
            await exchanges.close()
    ((tick,),) = published.batches
    assert tick.sources[missing].status == KINDS[problem]
    assert tick.sources[other].status == "ok"
    assert (tick.price is None, tick.bid_price is None) == (missing == "coingecko", missing == "binance")
    health = responses.health(ReadModel(["BTC-USD"]), KafkaView(), settings, NOON, metrics.pauses)
    (pause,) = health["pauses"]
    assert (pause["source"], pause["operation"], pause["kind"]) == (missing, "quotes", KINDS[problem])
    assert f": GET {urls[missing]}/" in pause["problem"]
    assert f"set {missing}.base_url to " in pause["problem"]
    assert (pause["pause_s"] > 0) == (problem != "unreachable")
