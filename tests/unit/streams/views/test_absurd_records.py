"""Records that other programs wrote: views skip what is absurd or ahead of the clock, and render the rest."""

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition

from marketdata.codec import encode_finite
from marketdata.records import Record
from marketdata.times import HOUR_MS, to_rfc3339
from marketdata.topics import TopicRole
from streams.views import responses
from streams.views.pages import Views
from tests.support import builders
from tests.support.fake_clock import FakeClock
from tests.support.stack import settings_with

NOW_MS = 1_722_816_000_000
PREDICTION = builders.prediction(NOW_MS)
SCORE = builders.score(builders.prediction(NOW_MS - 2 * HOUR_MS))
TICK = builders.tick(NOW_MS)


@pytest.fixture
def views() -> Views:
    return Views(settings_with({}), FakeClock(NOW_MS))  # type: ignore[arg-type]


def apply(views: Views, role: TopicRole, *records: Record, arrived_ms: int = NOW_MS) -> None:
    topic = next(name for name, one in views.follower._roles.items() if one is role)
    raw = [
        ConsumerRecord(topic, 0, offset, arrived_ms, 1, record.symbol.encode(), encode_finite(record), None, -1, -1, ())
        for offset, record in enumerate(records)
    ]
    views.follower._process({TopicPartition(topic, 0): raw})


@pytest.mark.parametrize(
    ("role", "record"),
    [
        (TopicRole.PREDICTION_SCORES, msgspec.structs.replace(SCORE, error_bps=1e200)),
        (TopicRole.PREDICTION_SCORES, msgspec.structs.replace(SCORE, winkler_bps=1e308)),
        (TopicRole.PREDICTIONS, msgspec.structs.replace(PREDICTION, horizon_h=-(10**9))),
        (TopicRole.PREDICTIONS, msgspec.structs.replace(PREDICTION, target_end="0001-01-01T00:00:00+23:59")),
        (TopicRole.TICKS_CLEAN, msgspec.structs.replace(TICK, timestamp="0001-01-01T00:00:00+23:59")),
        (TopicRole.TICKS, msgspec.structs.replace(TICK, timestamp="0001-01-01T00:00:00+23:59")),
    ],
)
def test_an_absurd_record_is_skipped_and_counted(views: Views, role: TopicRole, record: Record) -> None:
    apply(views, role, record)
    assert views.read_model.topics[role].undecodable == 1
    assert views.read_model.topics[role].records == 0
    msgspec.json.encode([views._health_document(), responses.scores(views.read_model, None, 10)])


def test_the_largest_scores_are_summarised(views: Views) -> None:
    apply(views, TopicRole.PREDICTION_SCORES, msgspec.structs.replace(SCORE, error_bps=1e9, last_price_error_bps=-1e9))
    (row,) = responses.scores(views.read_model, None, 10)["summary"]
    assert (row["rmse_bps"], row["mean_abs_last_price_error_bps"]) == (1e9, 1e9)


def test_a_forecast_whose_anchor_is_ahead_of_the_clock_does_not_rank_before_later_ones(views: Views) -> None:
    ahead = msgspec.structs.replace(
        PREDICTION, prediction_id="ahead", target_start="9999-01-01T00:00:00Z", target_end="9999-01-01T01:00:00Z"
    )
    apply(views, TopicRole.PREDICTIONS, ahead, PREDICTION)
    assert views.read_model.topics[TopicRole.PREDICTIONS].skipped == 1
    assert views.read_model.serving == PREDICTION
    assert responses.predictions(views.read_model, None, 10)["predictions"] == [PREDICTION]


def test_a_score_of_a_target_ahead_of_the_clock_is_skipped(views: Views) -> None:
    ahead = msgspec.structs.replace(SCORE, target_end=to_rfc3339(NOW_MS + 10 * HOUR_MS))
    apply(views, TopicRole.PREDICTION_SCORES, ahead)
    assert views.read_model.topics[TopicRole.PREDICTION_SCORES].skipped == 1


@pytest.mark.parametrize("arrived_ms", [2**62, -(2**62), -1])
def test_health_renders_whatever_timestamp_a_producer_wrote(views: Views, arrived_ms: int) -> None:
    apply(views, TopicRole.TICKS_CLEAN, TICK, arrived_ms=arrived_ms)
    msgspec.json.encode(views._health_document())


def test_an_error_of_a_listener_does_not_end_the_follower(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views.follower, "_on_record", lambda _role, _record: 1 / 0)
    apply(views, TopicRole.PREDICTIONS, PREDICTION)
    topic = views.read_model.topics[TopicRole.PREDICTIONS]
    assert (topic.unexpected, topic.undecodable) == (1, 1)
