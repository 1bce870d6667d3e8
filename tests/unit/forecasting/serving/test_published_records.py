"""Published records of a market: what is pending, what is published, and the comparison with HAR."""

from forecasting.registry.promotion import HAR_WATCH_H
from forecasting.serving.published_records import PublishedRecords
from marketdata.records import Role, Score
from marketdata.times import HOUR_MS, to_rfc3339

CHAMPION = "lstm-quantile-20240805T00-0123456789"
MODEL = "lstm-quantile"


def score(version: str, hour: int, pinball: float, role: Role) -> Score:
    start = to_rfc3339(hour * HOUR_MS)
    return Score(
        symbol="BTC-USD",
        prediction_id=f"{version}{hour}",
        issued_at=start,
        target_start=start,
        target_end=start,
        scored_at=start,
        horizon_h=1,
        model_version=version,
        role=role,
        origin="live",
        actual_avg_price=1.0,
        pred_avg_price=1.0,
        last_price=1.0,
        n_ticks=60,
        coverage=1.0,
        error_bps=0.0,
        last_price_error_bps=0.0,
        covered=True,
        interval_level=0.9,
        pinball_bps=pinball,
        winkler_bps=1.0,
    )


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
