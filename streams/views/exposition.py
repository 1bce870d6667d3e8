"""What the board knows, for Prometheus: how old each source's data and forecast is, and how the newest forecasts fared.

Computed when it is asked for, out of what the views hold: every worker tells the same, whoever polls.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from marketdata.records import Score
from marketdata.times import from_rfc3339
from marketdata.topics import TopicRole
from streams.views.forecast_health import serving
from streams.views.read_model import Board, closed_ms

_BY = ["symbol", "role", "origin"]
_FORECASTS: tuple[tuple[str, str, Callable[[Score], float]], ...] = (
    ("coverage_ratio", "Share of scored hours whose truth lay inside the band", lambda s: float(s.covered)),
    ("interval_level", "Share that the band promises", lambda s: s.interval_level),
    ("absolute_error_bps", "Mean absolute error, basis points of log price", lambda s: abs(s.error_bps)),
    (
        "last_price_absolute_error_bps",
        "The same of the last price taken as the forecast",
        lambda s: abs(s.last_price_error_bps),
    ),
    ("pinball_bps", "Mean pinball loss over the quantiles, basis points of log price", lambda s: s.pinball_bps),
    ("winkler_bps", "Mean Winkler score of the band, basis points of log price", lambda s: s.winkler_bps),
)
"""Name, meaning and value of each score: means over those held of one market, role and origin."""


class BoardCollector(Collector):
    """`now_ms` is event time, None while unknown; `forecast` are the markets of which forecasts are made."""

    def __init__(self, board: Board, now_ms: Callable[[], int | None], forecast: Collection[str]) -> None:
        self._board = board
        self._forecast = forecast
        self._now_ms = now_ms
        self._read = -1  # scores that were read when those of `_told` were computed
        self._told: list[GaugeMetricFamily] = []

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The names, so that registering computes nothing."""
        yield self._ages([])
        yield self._forecast_ages([])
        yield from self._forecasts({})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One scrape."""
        now_ms = self._now_ms()
        known = [
            (name, (now_ms - from_rfc3339(source.observed_at)) / 1000)
            for name, source in sorted(self._board.sources.items())
            if now_ms is not None and source.observed_at is not None
        ]
        yield self._ages(known)
        yield self._forecast_ages(
            [
                (made.symbol, (now_ms - closed_ms(made)) / 1000)
                for made in serving(self._board, self._forecast)
                if now_ms is not None
            ]
        )
        read = self._board.topics[TopicRole.PREDICTION_SCORES].records
        if read != self._read:  # some an hour come: not computed anew at each scrape
            groups: defaultdict[tuple[str, ...], list[Score]] = defaultdict(list)
            for market in self._board.markets.values():
                for score in market.scores.values():
                    groups[score.symbol, score.role, score.origin].append(score)
            self._read, self._told = read, list(self._forecasts(dict(sorted(groups.items()))))
        yield from self._told

    @staticmethod
    def _ages(known: list[tuple[str, float]]) -> GaugeMetricFamily:
        ages = GaugeMetricFamily(
            "bitcoin_source_age_seconds",
            "Event time since what a source said last was true; grows while it fails",
            labels=["source"],
        )
        for name, age_s in known:
            ages.add_metric([name], max(age_s, 0.0))
        return ages

    @staticmethod
    def _forecast_ages(known: list[tuple[str, float]]) -> GaugeMetricFamily:
        ages = GaugeMetricFamily(
            "bitcoin_forecast_age_seconds",
            "Event time since the end of the hour after which a market's newest serving forecast was made; "
            "at most an hour and some minutes while the predictor runs",
            labels=["symbol"],
        )
        for symbol, age_s in known:
            ages.add_metric([symbol], max(age_s, 0.0))
        return ages

    @staticmethod
    def _forecasts(groups: dict[tuple[str, ...], list[Score]]) -> Iterator[GaugeMetricFamily]:
        held = GaugeMetricFamily(
            "bitcoin_forecast_scores", "Newest scored hours that the means below are over", labels=_BY
        )
        for labels, group in groups.items():
            held.add_metric(labels, len(group))
        yield held
        for name, about, value in _FORECASTS:
            family = GaugeMetricFamily(f"bitcoin_forecast_{name}", about, labels=_BY)
            for labels, group in groups.items():
                family.add_metric(labels, sum(map(value, group)) / len(group))
            yield family
