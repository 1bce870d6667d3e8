"""The state of one market: what it publishes, in which order, once; restarts; training. No Kafka, HDFS or Keras."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from pydantic import ValidationError

from config.sections import ForecastingSettings
from forecasting.data.hourly_store import HourlyStore
from forecasting.data.samples import Samples
from forecasting.evaluation.conformal import Calibrator
from forecasting.models.har import Har
from forecasting.registry.versions import Loaded, Registry, Version, model_of
from forecasting.serving.market_state import MarketState
from marketdata.errors import ForecastError, StorageError
from marketdata.records import Prediction, Score
from marketdata.times import HOUR_MS, from_rfc3339, to_rfc3339
from tests.support.fake_clock import FakeClock
from tests.support.forecasting_hours import START_MS, month_files, walk
from tests.support.memory_storage import MemoryStorage

SYMBOL = "BTC-USD"
N = 700
END_MS = START_MS + N * HOUR_MS
ROWS = walk(N + 60, live=True)


@dataclass
class FakeRegistry:
    """Champion and versions by name; a version without a model cannot be loaded."""

    champion_name: str | None = None
    loadable: dict[str, Loaded] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    _symbol: str = SYMBOL

    load_champion = Registry.load_champion

    def promoted(self) -> Iterator[dict[str, str]]:
        if self.champion_name is not None:
            yield {"version": self.champion_name}

    def challengers(self, champion: str | None) -> dict[str, str]:
        return {model_of(name): name for name in self.named if model_of(name) != (champion and model_of(champion))}

    def load(self, name: str) -> Loaded:
        self.loads.append(name)
        if name in self.failing:
            raise StorageError(f"{name}: cannot be read")
        if name not in self.loadable:
            raise ForecastError(f"{name}: forecasts differ from its probe")
        return self.loadable[name]


@dataclass
class FakeTraining:
    model: str
    exit_code: int | None = None
    stopped: bool = False

    async def stop(self) -> None:
        self.stopped = True


class MarketUnderTest:
    """A market state with fakes around it, and the records that it published."""

    def __init__(self, tmp_path: Path, n: int = N, **settings: object) -> None:
        values = {"calibration_hours": 100, "train_hours": 600, "plot_path": tmp_path / "latest.png", **settings}
        self.settings = ForecastingSettings.model_validate(values)
        self.storage = MemoryStorage()
        self.registry = FakeRegistry()
        self.clock = FakeClock(START_MS + n * HOUR_MS + 1_000)
        self.trainings: list[FakeTraining] = []
        self.records: list[Prediction | Score] = []
        self.lost: set[int] = set()
        self.state = self.restarted()
        self.rows(ROWS.slice(0, n))

    def restarted(self) -> MarketState:
        store = HourlyStore(self.storage, "/hours", SYMBOL)
        self.state = MarketState(
            SYMBOL, self.settings, store, self.registry, self.clock, self.start_training, self.clock.monotonic
        )
        self.state.restore(self.predictions, self.scores)
        return self.state

    async def start_training(self, symbol: str, model: str) -> FakeTraining:
        assert symbol == SYMBOL
        self.trainings.append(FakeTraining(model))
        return self.trainings[-1]

    def rows(self, table: pa.Table) -> None:
        self.storage.contents.update({f"/hours/{name}": data for name, data in month_files(table).items()})

    async def publish(self, record: Prediction | Score) -> None:
        self.records.append(record)
        if len(self.records) in self.lost:
            raise ConnectionError("the acknowledgement is lost")

    async def update(self) -> None:
        """One update, in the service's order."""
        self.state.check_training()
        await self.state.refresh()
        await self.state.score(self.publish)
        await self.state.predict(self.publish)
        await self.state.retrain()

    @property
    def predictions(self) -> list[Prediction]:
        return [record for record in self.records if isinstance(record, Prediction)]

    @property
    def scores(self) -> list[Score]:
        return [record for record in self.records if isinstance(record, Score)]


@pytest.fixture
def market(tmp_path: Path) -> MarketUnderTest:
    return MarketUnderTest(tmp_path)


@pytest.fixture(scope="module")
def fitted(samples: Samples) -> Har:
    """A model that can stand for any version."""
    model = Har()
    model.fit(samples, samples.anchors[samples.learnable][:1_000])
    return model


def version(name: str, model: Har, through_ms: int = END_MS) -> Loaded:
    config = {"sequence_h": 60, "horizon_h": 1, "model": {"name": model.name}}
    description = Version(SYMBOL, name, to_rfc3339(through_ms), "recipe", config, {})
    return Loaded(description, model, Calibrator(), through_ms - 200 * HOUR_MS)


CHAMPION = "lstm-quantile-20230130T04-0123456789"
CHALLENGER = "lstm-plain-20230130T04-0123456789"


async def test_each_hour_is_predicted_once_and_not_again_after_a_restart(market: MarketUnderTest) -> None:
    await market.update()
    await market.update()
    assert [(p.model_version, p.stale_reason) for p in market.predictions] == [
        ("har", "no_model"),
        ("last-price", None),
    ]
    assert {p.target_start for p in market.predictions} == {to_rfc3339(END_MS)}
    market.restarted()
    await market.update()
    assert len(market.records) == 2
    market.rows(ROWS.slice(0, N + 1))
    market.clock.ms += HOUR_MS
    await market.update()
    assert [p.target_start for p in market.predictions[2:]] == [to_rfc3339(END_MS + HOUR_MS)] * 2


async def test_scores_come_before_predictions_in_order_of_time_and_once(market: MarketUnderTest) -> None:
    await market.update()
    market.rows(ROWS.slice(0, N + 1))
    market.clock.ms += HOUR_MS
    await market.update()
    kinds = [type(record).__name__ for record in market.records]
    assert kinds == ["Prediction"] * 2 + ["Score"] * 2 + ["Prediction"] * 2
    assert [s.prediction_id for s in market.scores] == [p.prediction_id for p in market.predictions[:2]]
    assert market.scores[0].actual_avg_price == ROWS["avg_price"][N].as_py()
    market.restarted()
    await market.update()
    assert len(market.records) == 6


def with_average(rows: pa.Table, at: int, bps: float) -> pa.Table:
    """The rows with the average price of one changed, in basis points of log price."""
    column = rows.schema.get_field_index("avg_price")
    prices = rows["avg_price"].to_pylist()
    prices[at] *= math.exp(bps / 1e4)
    return rows.set_column(column, rows.schema.field(column), [pa.array(prices)])


async def test_a_score_is_published_again_when_its_hour_is_rewritten_and_once_per_truth(
    market: MarketUnderTest,
) -> None:
    await market.update()
    rows = ROWS.slice(0, N + 1)
    market.rows(rows)
    market.clock.ms += HOUR_MS
    await market.update()
    first = market.scores
    assert [score.revision for score in first] == [0, 0]
    market.rows(with_average(rows, N, 0.9))  # not by more than 1 bp
    await market.update()
    assert market.scores == first
    market.rows(with_average(rows, N, 5.0))
    await market.update()
    await market.update()
    revised = market.scores[2:]
    assert [(score.prediction_id, score.revision) for score in revised] == [(one.prediction_id, 1) for one in first]
    for score, before in zip(revised, first, strict=True):
        assert score.actual_avg_price == pytest.approx(before.actual_avg_price * math.exp(5e-4), rel=1e-12)
        assert score.error_bps == pytest.approx(before.error_bps - 5.0)
    market.restarted()
    await market.update()
    assert len(market.scores) == 4  # a restart adds no revision of the same truth
    market.rows(rows)
    await market.update()
    assert [score.revision for score in market.scores[4:]] == [2, 2]
    assert market.scores[4].actual_avg_price == first[0].actual_avg_price


async def test_a_revision_whose_acknowledgement_is_lost_is_not_published_twice(market: MarketUnderTest) -> None:
    await market.update()
    rows = ROWS.slice(0, N + 1)
    market.rows(rows)
    market.clock.ms += HOUR_MS
    await market.update()
    market.rows(with_average(rows, N, 5.0))
    market.lost = {len(market.records) + 1}
    with pytest.raises(ConnectionError):
        await market.update()
    market.state.invalidate()
    market.state.restore(market.predictions, market.scores)
    await market.update()
    found = [(score.prediction_id, score.revision) for score in market.scores]
    assert len(found) == len(set(found)) == 4


async def test_a_record_whose_acknowledgement_is_lost_is_not_published_twice(market: MarketUnderTest) -> None:
    market.lost = {1, 4}
    with pytest.raises(ConnectionError):
        await market.update()
    market.state.invalidate()
    assert not market.state.is_restored
    market.state.restore(market.predictions, market.scores)
    await market.update()
    assert [p.model_version for p in market.predictions] == ["har", "last-price"]
    market.rows(ROWS.slice(0, N + 1))
    market.clock.ms += HOUR_MS
    with pytest.raises(ConnectionError):
        await market.update()
    market.state.invalidate()
    market.state.restore(market.predictions, market.scores)
    await market.update()
    ids = [s.prediction_id for s in market.scores]
    assert len(ids) == len(set(ids)) == 2


async def test_a_failed_score_is_retried_without_new_rows(market: MarketUnderTest) -> None:
    await market.update()
    market.rows(ROWS.slice(0, N + 1))
    await market.state.refresh()

    async def refuse(_record: Prediction | Score) -> None:
        raise ForecastError("owned by another predictor")

    with pytest.raises(ForecastError):
        await market.state.score(refuse)
    assert market.scores == []
    await market.state.refresh()
    await market.state.score(market.publish)
    assert len(market.scores) == 2


async def test_a_first_champion_is_published_in_the_same_hour(market: MarketUnderTest, fitted: Har) -> None:
    await market.update()
    market.registry.champion_name, market.registry.loadable[CHAMPION] = CHAMPION, version(CHAMPION, fitted)
    await market.update()
    await market.update()
    assert [p.role for p in market.predictions] == ["baseline", "baseline", "champion"]
    assert market.predictions[2].model_version == CHAMPION
    assert market.predictions[2].stale_reason is None
    assert market.settings.plot_path.read_bytes().startswith(b"\x89PNG")


async def test_a_newer_champion_is_used_from_the_next_hour_on(market: MarketUnderTest, fitted: Har) -> None:
    newer = CHAMPION.replace("T04", "T05")
    market.registry.loadable = {name: version(name, fitted) for name in (CHAMPION, newer)}
    market.registry.champion_name = CHAMPION
    await market.update()
    market.registry.champion_name = newer
    await market.update()
    assert market.registry.loads == [CHAMPION]
    market.rows(ROWS.slice(0, N + 1))
    market.clock.ms += HOUR_MS
    await market.update()
    assert [p.model_version for p in market.predictions if p.role == "champion"] == [CHAMPION, newer]


async def test_a_challenger_that_cannot_be_read_delays_nothing(market: MarketUnderTest, fitted: Har) -> None:
    market.registry.champion_name = CHAMPION
    market.registry.loadable = {CHAMPION: version(CHAMPION, fitted), CHALLENGER: version(CHALLENGER, fitted)}
    market.registry.named, market.registry.failing = [CHAMPION, CHALLENGER], {CHALLENGER}
    await market.update()
    assert [p.role for p in market.predictions] == ["champion", "baseline", "baseline"]
    market.registry.failing = set()
    market.rows(ROWS.slice(0, N + 1))
    market.clock.ms += HOUR_MS
    await market.update()
    assert [p.role for p in market.predictions[3:]] == ["champion", "challenger", "baseline", "baseline"]


async def test_a_version_that_does_not_match_its_probe_is_loaded_once(market: MarketUnderTest) -> None:
    market.registry.champion_name = CHAMPION
    await market.update()
    await market.update()
    assert market.registry.loads == [CHAMPION]
    assert [p.stale_reason for p in market.predictions] == ["no_model", None]


async def test_no_prediction_is_published_when_its_target_hour_is_over(market: MarketUnderTest) -> None:
    market.clock.ms = END_MS + HOUR_MS
    await market.update()
    assert market.records == []


async def test_a_prediction_is_not_published_when_forecasting_outlasts_its_target_hour(market: MarketUnderTest) -> None:
    market.clock.ms, market.clock.step_ms = END_MS + HOUR_MS - 1, 1
    await market.update()
    assert market.records == []


async def test_issued_at_is_the_time_of_each_publication(market: MarketUnderTest) -> None:
    market.clock.ms, market.clock.step_ms = END_MS + 1_000, 500
    await market.update()
    assert [from_rfc3339(p.issued_at) - END_MS for p in market.predictions] == [1_500, 2_000]


async def test_without_rows_it_waits_and_states_the_reason_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    market = MarketUnderTest(tmp_path)
    market.storage.contents.clear()
    for _ in range(3):
        await market.update()
    assert market.records == []
    assert market.trainings == []
    assert market.state.waiting_for is not None
    reason = "waiting for an hour with a price in hourly_metrics, from `batch backfill`, or from `batch raw`"
    assert caplog.messages == [f"symbol={SYMBOL} no forecasts: {reason}"]
    market.rows(ROWS.slice(0, N))
    await market.update()
    assert market.state.waiting_for is None
    assert len(market.predictions) == 2
    assert len(market.trainings) == 1


async def test_a_failed_training_is_retried_after_growing_pauses_until_it_succeeds(
    market: MarketUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await market.update()
    pauses = []
    for failure in range(1, 10):
        market.trainings[-1].exit_code = 1
        await market.update()
        began, step_s = market.clock.now_s, min(30.0 * 2.0 ** (failure - 1), 3_600.0) / 6
        while len(market.trainings) == failure:
            market.clock.now_s += step_s
            await market.update()
        pauses.append(market.clock.now_s - began)
    assert all(15.0 <= pause <= 30.0 * 2.0**n for n, pause in enumerate(pauses))
    assert all(1_800.0 <= pause <= 3_600.0 for pause in pauses[7:])
    market.trainings[-1].exit_code = 0
    await market.update()
    market.clock.now_s += 4_000.0
    await market.update()
    assert len(market.trainings) == 10
    failed = [message for message in caplog.messages if "retrying after" in message]
    assert failed == [
        f"symbol={SYMBOL} training of lstm-quantile ended exit_code=1, retrying after pauses of up to 1 h"
    ]


async def test_models_are_trained_one_after_another_and_retried_after_six_hours(tmp_path: Path) -> None:
    market = MarketUnderTest(tmp_path, challengers=("lstm-plain",))
    await market.update()
    await market.update()
    assert [t.model for t in market.trainings] == ["lstm-quantile"]
    market.trainings[0].exit_code = 1
    await market.update()
    assert [t.model for t in market.trainings] == ["lstm-quantile", "lstm-plain"]
    market.trainings[1].exit_code = 1
    for hours, started in ((5, 2), (6, 3)):
        market.rows(ROWS.slice(0, N + hours))
        market.clock.ms = END_MS + hours * HOUR_MS
        await market.update()
        assert len(market.trainings) == started
    assert market.trainings[2].model == "lstm-quantile"


async def test_a_champion_is_retrained_when_it_is_old_enough(tmp_path: Path, fitted: Har) -> None:
    market = MarketUnderTest(tmp_path, retrain_every_h=24)
    market.registry.champion_name = CHAMPION
    market.registry.loadable[CHAMPION] = version(CHAMPION, fitted, END_MS - 20 * HOUR_MS)
    for hours, started in ((3, 0), (4, 1)):
        market.rows(ROWS.slice(0, N + hours))
        market.clock.ms = END_MS + hours * HOUR_MS
        await market.update()
        assert len(market.trainings) == started


async def test_with_too_few_hours_no_training_starts(tmp_path: Path) -> None:
    market = MarketUnderTest(tmp_path, calibration_hours=1_440)
    await market.update()
    assert market.trainings == []
    assert len(market.predictions) == 2


async def test_a_released_market_stops_its_training_and_must_be_restored(market: MarketUnderTest) -> None:
    await market.update()
    await market.state.release()
    assert market.trainings[0].stopped
    assert not market.state.is_restored
    market.state.restore(market.predictions, market.scores)
    await market.update()
    assert len(market.records) == 2


def test_a_model_is_retrained_before_it_is_too_old_to_serve() -> None:
    own = ForecastingSettings()
    assert own.retrain_every_h + 24 <= own.max_model_age_h
    with pytest.raises(ValidationError, match=r"retrain_every_h: 200: expected at most max_model_age_h \(168\)"):
        ForecastingSettings(retrain_every_h=200)


async def test_a_prediction_that_cannot_be_scored_does_not_stop_the_scores_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    market = MarketUnderTest(tmp_path)
    await market.update()
    published = market.predictions
    broken = msgspec.structs.replace(published[0], prediction_id="broken", quantiles={})
    certain = msgspec.structs.replace(published[0], prediction_id="certain", interval_level=1.0)
    market.state.restore([broken, certain, *published], [])
    market.rows(ROWS.slice(0, N + 1))
    market.clock.ms += HOUR_MS
    await market.update()
    assert {one.prediction_id for one in market.scores} == {one.prediction_id for one in published}
    for name in ("broken", "certain"):
        assert f"prediction={name} cannot be scored" in caplog.text
