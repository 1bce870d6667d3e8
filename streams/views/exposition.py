"""Prometheus metrics of the read model: ages of sources and forecasts, means of the newest scores, states of parts.

Computed at each scrape. Every worker exposes the same values, no matter which one polls.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from marketdata.part_status import UNKNOWN, PartSummary
from marketdata.records import Score
from marketdata.times import from_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Activity
from streams.views.forecast_health import serving_forecasts
from streams.views.read_model import ReadModel, anchor_end_ms

_BY = ["symbol", "role", "origin"]
_SCORE_METRICS: tuple[tuple[str, str, Callable[[Score], float]], ...] = (
    ("coverage_ratio", "Share of scored hours whose true average is inside the band", lambda s: float(s.covered)),
    ("interval_level", "Nominal coverage of the band", lambda s: s.interval_level),
    ("absolute_error_bps", "Mean absolute error, basis points of log price", lambda s: abs(s.error_bps)),
    (
        "last_price_absolute_error_bps",
        "Mean absolute error of the last price as the forecast, basis points of log price",
        lambda s: abs(s.last_price_error_bps),
    ),
    ("pinball_bps", "Mean pinball loss over the quantiles, basis points of log price", lambda s: s.pinball_bps),
    ("winkler_bps", "Mean Winkler score of the band, basis points of log price", lambda s: s.winkler_bps),
)
"""Name, HELP text and value of a score; exposed as the mean over the stored scores of one market, role and origin."""


class ReadModelCollector(Collector):
    """Collects the metrics of a read model.

    Args:
        read_model: the read model.
        now_ms: event time; None while unknown.
        symbols: the markets with forecasts (`forecasting.symbols`).
        summaries: returns the states of the parts that run in other programs.
    """

    def __init__(
        self,
        read_model: ReadModel,
        now_ms: Callable[[], int | None],
        symbols: Collection[str],
        summaries: Callable[[], Sequence[PartSummary]] = tuple,
    ) -> None:
        self._summaries = summaries
        self._read_model = read_model
        self._symbols = symbols
        self._now_ms = now_ms
        self._n_scores = -1  # number of scores read when `_means` was computed
        self._means: list[GaugeMetricFamily] = []

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Return the metrics' names without samples, for registration."""
        yield self._ages([])
        yield self._forecast_ages([])
        yield from _part_families(())
        yield from self._forecasts({})

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the metrics for one scrape."""
        now_ms = self._now_ms()
        ages = [
            (name, (now_ms - from_rfc3339(source.observed_at)) / 1000)
            for name, source in sorted(self._read_model.sources.items())
            if now_ms is not None and source.observed_at is not None
        ]
        yield self._ages(ages)
        yield self._forecast_ages(
            [
                (prediction.symbol, (now_ms - anchor_end_ms(prediction)) / 1000)
                for prediction in serving_forecasts(self._read_model, self._symbols)
                if now_ms is not None
            ]
        )
        yield from _part_families(self._summaries())
        n_scores = self._read_model.topics[TopicRole.PREDICTION_SCORES].records
        if n_scores != self._n_scores:  # cached: only a few scores arrive per hour
            groups: defaultdict[tuple[str, ...], list[Score]] = defaultdict(list)
            for market in self._read_model.markets.values():
                for score in market.scores.values():
                    groups[score.symbol, score.role, score.origin].append(score)
            self._n_scores, self._means = n_scores, list(self._forecasts(dict(sorted(groups.items()))))
        yield from self._means

    @staticmethod
    def _ages(known: list[tuple[str, float]]) -> GaugeMetricFamily:
        ages = GaugeMetricFamily(
            "bitcoin_source_age_seconds",
            "Age of the source's newest data, in event time; grows while the source fails",
            labels=["source"],
        )
        for name, age_s in known:
            ages.add_metric([name], max(age_s, 0.0))
        return ages

    @staticmethod
    def _forecast_ages(known: list[tuple[str, float]]) -> GaugeMetricFamily:
        ages = GaugeMetricFamily(
            "bitcoin_forecast_age_seconds",
            "Event time since the end of the hour after which the market's newest serving forecast was made; "
            "at most one hour and a few minutes while the predictor runs",
            labels=["symbol"],
        )
        for symbol, age_s in known:
            ages.add_metric([symbol], max(age_s, 0.0))
        return ages

    @staticmethod
    def _forecasts(groups: dict[tuple[str, ...], list[Score]]) -> Iterator[GaugeMetricFamily]:
        counts = GaugeMetricFamily(
            "bitcoin_forecast_scores", "Number of scored hours in the means of the forecast metrics", labels=_BY
        )
        for labels, group in groups.items():
            counts.add_metric(labels, len(group))
        yield counts
        for name, help_text, value in _SCORE_METRICS:
            family = GaugeMetricFamily(f"bitcoin_forecast_{name}", help_text, labels=_BY)
            for labels, group in groups.items():
                family.add_metric(labels, sum(map(value, group)) / len(group))
            yield family


def _part_families(summaries: Sequence[PartSummary]) -> Iterator[GaugeMetricFamily]:
    states = GaugeMetricFamily(
        "bitcoin_part_state", "1 for the present state of a part, else 0", labels=["part", "state"]
    )
    for one in summaries:
        for state in (*Activity, UNKNOWN):
            states.add_metric([one.part, state], float(one.state == state))
    yield states
    numbers: tuple[tuple[str, str, Callable[[PartSummary], float | None]], ...] = (
        (
            "last_success_timestamp_seconds",
            "Unix time of the last completed step of a part",
            lambda one: None if one.last_success_ms is None else one.last_success_ms / 1000,
        ),
        (
            "last_report_timestamp_seconds",
            "Unix time of the last report of a part, or of the last probe of HDFS",
            lambda one: None if one.last_report_ms is None else one.last_report_ms / 1000,
        ),
        ("lag", "Records that raw has not stored; closed hours without an hourly row", lambda one: one.lag),
    )
    for name, help_text, value in numbers:
        family = GaugeMetricFamily(f"bitcoin_part_{name}", help_text, labels=["part"])
        for one in summaries:
            if (number := value(one)) is not None:
                family.add_metric([one.part], number)
        yield family
