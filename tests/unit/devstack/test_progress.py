"""The printed lines of progress and events."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from devstack.events import follow_replay, format_prediction, format_score
from devstack.progress import Count, PlainReporter, _TimeLeft, count_in, open_reporter, waiting_in
from marketdata.records import Prediction, Score
from tests.support.exchange_server import running_exchange


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["progress: train epoch 1/6", "progress: train epoch 3/6"], Count("train epoch", 3, 6)),
        (["backfill: 4/12 files, 2024/08/05"], Count("backfill", 4, 12)),
        (["progress: klines 2/9", "2024-08-05 INFO up in 11.1 s"], Count("klines", 2, 9)),
        (["no count", "path a/b"], None),
        (["7/3 is no progress", "0/0"], None),
        ([], None),
    ],
)
def test_the_last_count_of_a_log_is_its_progress(lines: list[str], expected: Count | None) -> None:
    assert count_in(lines) == expected


def test_the_last_reason_to_wait_is_found() -> None:
    lines = ["waiting: backfill: HTTP 451", "waiting: backfill: HTTP 403", "progress: klines 2/9"]
    assert waiting_in(lines) == "backfill: HTTP 403"
    assert waiting_in(lines[2:]) is None


def test_plain_progress_is_lines(tmp_path: Path) -> None:
    out = io.StringIO()
    progress = open_reporter(Console(file=out, force_terminal=False, width=200))
    assert type(progress) is PlainReporter
    progress.begin("train")
    progress.follow("train", tmp_path / "none.log")
    progress.end("train")
    progress.close()
    first, second = out.getvalue().splitlines()
    assert first == "train …"
    assert second.startswith("train done after 0.")


def test_the_time_left_is_that_of_the_current_step() -> None:
    time_left = _TimeLeft()
    assert time_left.describe(Count("klines", 10, 20), 100.0) == "klines 10/20"
    assert time_left.describe(Count("klines", 15, 20), 110.0) == "klines 15/20, about 10 s left"
    assert time_left.describe(Count("rows", 1, 4), 111.0) == "rows 1/4"
    assert time_left.describe(Count("rows", 2, 4), 114.0) == "rows 2/4, about 6 s left"
    assert time_left.describe(Count("rows", 4, 4), 120.0) == "rows 4/4"


def test_a_terminal_shows_the_lines_too() -> None:
    out = io.StringIO()
    progress = open_reporter(Console(file=out, force_terminal=True, width=100))
    progress.begin("train")
    progress.end("train")
    progress.begin("load history")
    progress.drop("load history")
    progress.close()
    assert "train done after" in out.getvalue()
    assert "load history done" not in out.getvalue()


_TIMES = {
    "target_start": "2024-08-05T06:00:00.000Z",
    "target_end": "2024-08-05T07:00:00.000Z",
    "issued_at": "2024-08-05T06:02:00.000Z",
}


def test_a_prediction_reads_as_one_line() -> None:
    prediction = Prediction(
        symbol="BTC-USD",
        prediction_id="p",
        data_through="2024-08-05T06:00:00.000Z",
        horizon_h=1,
        last_price=54_000.0,
        pred_avg_price=54_123.4,
        quantiles={},
        lower=53_000.0,
        upper=55_000.0,
        interval_level=0.9,
        sigma=0.01,
        n_calib=100,
        model_version="v1",
        trained_through=None,
        role="champion",
        origin="live",
        **_TIMES,
    )
    assert format_prediction(prediction) == (
        "prediction  BTC-USD 2024-08-05 06:00–07:00: average 54,123.40, 90% band 53,000.00 … 55,000.00 (champion v1)"
    )


def test_a_score_reads_as_one_line() -> None:
    score = Score(
        symbol="BTC-USD",
        prediction_id="p",
        scored_at="2024-08-05T07:02:00.000Z",
        horizon_h=1,
        model_version="v1",
        role="champion",
        origin="live",
        actual_avg_price=54_000.0,
        pred_avg_price=54_123.4,
        last_price=53_900.0,
        n_ticks=60,
        coverage=1.0,
        error_bps=22.8,
        last_price_error_bps=-18.5,
        covered=True,
        interval_level=0.9,
        pinball_bps=1.0,
        winkler_bps=2.0,
        **_TIMES,
    )
    assert format_score(score) == (
        "score       BTC-USD 2024-08-05 06:00–07:00: actual 54,000.00, predicted 54,123.40, "
        "error +22.8 bps (last-price baseline -18.5 bps), inside the band (champion v1)"
    )


async def test_the_end_of_the_replayed_history_is_reported() -> None:
    async with running_exchange() as exchange:
        exchange.state.clock.steer(now_ms=exchange.state.clock.end_ms)
        reported: list[str] = []
        await follow_replay(exchange.address, reported.append)
    assert len(reported) == 1
    assert "the replayed history ended at 2024-08-07T00:00:00.000Z" in reported[0]
