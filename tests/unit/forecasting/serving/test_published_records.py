"""Published records of a market: what is pending, what is published, and the comparison with HAR."""

from forecasting.registry.promotion import HAR_WATCH_H
from forecasting.serving.published_records import PublishedRecords
from marketdata.records import Role, Score
from marketdata.times import HOUR_MS
from tests.support import builders

CHAMPION = "lstm-quantile-20240805T00-0123456789"
MODEL = "lstm-quantile"


def score(version: str, hour: int, pinball: float, role: Role) -> Score:
    made = builders.prediction(hour * HOUR_MS, prediction_id=f"{version}{hour}", model_version=version, role=role)
    return builders.score(made, pinball_bps=pinball)


def test_hours_that_the_champion_missed_do_not_end_its_comparison_with_har() -> None:
    records = PublishedRecords("BTC-USD")
    for hour in range(HAR_WATCH_H + 60):
        if hour % 50:
            records.add_score(score(CHAMPION, hour, 1.1, "champion"))
        records.add_score(score("har", hour, 1.0, "baseline"))
    assert records.demotion(MODEL) == f"champion_trails_har over {HAR_WATCH_H} h"


def test_a_challenger_of_another_model_does_not_count_against_the_champion() -> None:
    records = PublishedRecords("BTC-USD")
    for hour in range(HAR_WATCH_H + 10):
        records.add_score(score(CHAMPION, hour, 0.9, "champion"))
        records.add_score(score("har", hour, 1.0, "baseline"))
        records.add_score(score("lstm-plain-20240805T00-0123456789", hour, 50.0, "challenger"))
    assert records.demotion(MODEL) is None


def test_the_highest_revision_of_a_score_counts_in_any_order() -> None:
    made = builders.prediction(0, model_version="har")
    first, second = builders.score(made, pinball_bps=1.0), builders.score(made, pinball_bps=2.0, revision=1)
    for order in ((first, second), (second, first)):
        records = PublishedRecords("BTC-USD")
        records.replace([made], order)
        assert records.scored == [(made, second)]
        assert (records.n_scores, records.pending) == (1, ())
