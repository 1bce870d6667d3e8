"""The commands as programs with Kafka and HDFS: serve from an empty registry to a scored champion, restart, report."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from clients.clock import SystemClock
from clients.webhdfs import WebHdfs
from config import Settings
from forecasting import commands
from forecasting.serving import kafka
from forecasting.serving.service import PredictorService
from marketdata.codec import decode
from marketdata.records import PartStatus, Prediction, Score
from marketdata.times import HOUR_MS, floor_to, from_rfc3339
from marketdata.topics import TopicRole
from marketdata.vocabulary import Activity, ProductPart
from tests.integration.streams.worker.test_shutdown import pid_of_kafka
from tests.support.forecasting_hours import SCHEMA, store, walk
from tests.support.kafka_records import make_topics
from tests.support.stack import StackUnderTest, environment_of, eventually, eventually_async, running

SYMBOL = "BTC-USD"
N = 900
ENDS_S = 5.0
TOPICS = (TopicRole.PREDICTIONS, TopicRole.PREDICTION_SCORES, TopicRole.PART_STATUS)
BUDGET = {
    "train_hours": 800,
    "calibration_hours": 100,
    "epochs": 1,
    "max_windows": 350,
    "seeds": (0,),
    "poll_s": 0.2,
    "symbols": (SYMBOL,),
}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """A small budget, this machine's clock, and separate folders."""
    own = {**BUDGET, "report_dir": tmp_path / "report", "plot_path": tmp_path / "latest.png"}
    return settings.model_copy(
        update={
            "clock": settings.clock.model_copy(update={"source": "system", "speed": 1.0}),
            "forecasting": settings.forecasting.model_copy(update=own),
        }
    )


def published(settings: Settings) -> list[Prediction]:
    topic = settings.topic(TopicRole.PREDICTIONS).name
    return asyncio.run(kafka.tail(settings.kafka, topic, Prediction, 1_000, 10.0))


def scores(settings: Settings) -> list[Score]:
    topic = settings.topic(TopicRole.PREDICTION_SCORES).name
    return asyncio.run(kafka.tail(settings.kafka, topic, Score, 1_000, 10.0))


def statuses(settings: Settings, part: ProductPart) -> list[PartStatus]:
    topic = settings.topic(TopicRole.PART_STATUS).name
    found = asyncio.run(kafka.tail(settings.kafka, topic, PartStatus, 1_000, 10.0))
    # Instances may be on several partitions, which are read one after another.
    return sorted((status for status in found if status.part == part), key=lambda status: status.reported_at)


def history() -> tuple[pa.Table, pa.Table]:
    """Rows up to and including the current hour; and the live row of the hour after.

    The service takes every row as a closed hour, so its next target is an hour ahead of this machine's clock and cannot
    end while the test runs.
    """
    now_ms = time.time_ns() // 1_000_000
    rows = walk(N + 1, start_ms=floor_to(now_ms, HOUR_MS) - (N - 1) * HOUR_MS)
    last = rows.slice(N).to_pydict()
    last.update(origin=["live"], basis=["ticks"], n_ticks=[60])
    return rows.slice(0, N), pa.table(last, schema=SCHEMA)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "forecasting", *words]


def test_serve_from_nothing_to_a_scored_champion_and_over_a_restart(settings: Settings, tmp_path: Path) -> None:
    make_topics(settings, TOPICS)
    rows, truth = history()
    store(settings.hdfs, rows)
    env = environment_of(settings)
    with running(command("serve"), tmp_path / "serve.log", env) as program:

        def roles() -> set[str]:
            program.check_running()
            return {p.role for p in published(settings)}

        eventually(lambda: roles() >= {"baseline"}, 90, "baselines for the next hour")
        eventually(lambda: roles() >= {"baseline", "champion"}, 150, "a champion, trained by the service itself")
        before = published(settings)
    assert program.process.returncode == 0
    states = [status.state for status in statuses(settings, ProductPart.FORECASTER)]
    assert set(states) == {Activity.WAITING, Activity.RUNNING, Activity.STOPPED}
    assert states[-1] is Activity.STOPPED
    trainings = statuses(settings, ProductPart.TRAINER)
    assert f"lstm-quantile for {SYMBOL}" in {status.reason for status in trainings if status.state is Activity.RUNNING}
    assert any(status.state is Activity.DONE and status.last_success for status in trainings)  # of the child program
    by_version = {p.model_version: p for p in before}
    assert len(before) == len(by_version) == 3
    assert by_version["har"].stale_reason == "no_model"
    champion = next(p for p in before if p.role == "champion")
    assert champion.stale_reason is None
    for prediction in before:
        assert prediction.origin == "live"
        assert from_rfc3339(prediction.issued_at) < from_rfc3339(prediction.target_end)
        assert from_rfc3339(prediction.target_start) == from_rfc3339(prediction.data_through)
        assert prediction.lower <= prediction.pred_avg_price <= prediction.upper
        prices = list(prediction.quantiles.values())
        assert prices == sorted(prices)
    assert settings.forecasting.plot_path.read_bytes().startswith(b"\x89PNG")

    with running(command("serve"), tmp_path / "again.log", env) as program:
        eventually(lambda: "champion=" in program.output(), 90, "the champion loaded again")
        assert len(published(settings)) == 3
        store(settings.hdfs, pa.concat_tables([rows, truth]))

        def scored() -> list[Score]:
            program.check_running()
            found = scores(settings)
            return found if len(found) >= 3 else []

        found = eventually(scored, 90, "three scores")
        eventually(lambda: len(published(settings)) >= 6, 90, "predictions of the hour after")
    assert program.process.returncode == 0
    actual = truth["avg_price"][0].as_py()
    assert sorted(s.prediction_id for s in found) == sorted(p.prediction_id for p in before)
    for made in found:
        assert made.actual_avg_price == actual
        assert made.error_bps == pytest.approx(np.log(made.pred_avg_price / actual) * 1e4)
        assert made.origin == "live"
    after = published(settings)
    assert len({p.prediction_id for p in after}) == len(after) == 6

    with running(command("serve"), tmp_path / "third.log", env) as program:
        eventually(lambda: "champion=" in program.output(), 90, "the champion loaded a third time")
    assert len(published(settings)) == 6
    assert len(scores(settings)) == 3


def test_a_trained_challenger_is_published_next_to_the_champion_and_scored(settings: Settings, tmp_path: Path) -> None:
    make_topics(settings, TOPICS)
    rows, truth = history()
    store(settings.hdfs, rows)
    env = environment_of(settings)
    for model in ("lstm-quantile", "lstm-plain"):
        subprocess.run(command("train", "--model", model), env=env, timeout=240, check=True, capture_output=True)
    assert (tmp_path / "lstm-plain.png").read_bytes().startswith(b"\x89PNG")
    with running(command("serve"), tmp_path / "serve.log", env) as program:

        def issued() -> list[Prediction]:
            program.check_running()
            found = published(settings)
            return found if len(found) >= 4 else []

        found = eventually(issued, 120, "champion, challenger and two baselines")
        store(settings.hdfs, pa.concat_tables([rows, truth]))
        eventually(lambda: len(scores(settings)) >= 4, 90, "four scores")
    (plain,) = [p for p in found if p.role == "challenger"]
    assert plain.model_version.startswith("lstm-plain-")
    assert [p.stale_reason for p in found] == [None] * 4
    assert [s.prediction_id for s in scores(settings) if s.role == "challenger"] == [plain.prediction_id]


def test_of_two_predictors_one_publishes_and_the_other_succeeds_it(settings: Settings, tmp_path: Path) -> None:
    make_topics(settings, TOPICS)
    rows, truth = history()
    store(settings.hdfs, rows.slice(N - 700))
    env = environment_of(
        settings.model_copy(
            update={"forecasting": settings.forecasting.model_copy(update={"calibration_hours": 1_440})}
        )
    )  # too few hours to train
    with ExitStack() as programs:
        both = [programs.enter_context(running(command("serve"), tmp_path / f"{i}.log", env)) for i in range(2)]
        for program in both:
            eventually(lambda p=program: "serving" in p.output(), 90, "both there")
        eventually(lambda: len(published(settings)) >= 2, 60, "the baselines of an hour")
        # One of them owns the market; the other takes it over when that one ends.
        publishing = max(both, key=lambda p: p.output().rfind("restored"))
        publishing.process.terminate()
        assert publishing.process.wait(20) == 0
        store(settings.hdfs, pa.concat_tables([rows.slice(N - 700), truth]))
        eventually(lambda: len(published(settings)) >= 4, 60, "the next hour's baselines of the other")
        eventually(lambda: len(scores(settings)) >= 2, 60, "scores of the first")
    ids = [p.prediction_id for p in published(settings)]
    assert len(ids) == len(set(ids)) == 4
    assert len({s.prediction_id for s in scores(settings)}) == len(scores(settings)) == 2


def test_after_a_send_with_unknown_outcome_the_topic_is_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first acknowledgement is lost after the broker has the record; the second send does not reach the broker."""
    make_topics(settings, TOPICS)
    store(settings.hdfs, walk(700, start_ms=history()[0]["hour_start"][N - 700].cast(pa.int64()).as_py() // 1000))
    real = AIOKafkaProducer.send_and_wait
    failures = ["not sent", "acknowledgement lost"]

    async def send(producer: AIOKafkaProducer, *args: Any, **kwargs: Any) -> Any:
        failure = failures.pop() if failures else None
        if failure != "not sent":
            done = await real(producer, *args, **kwargs)
            if failure is None:
                return done
        raise KafkaTimeoutError(failure)

    monkeypatch.setattr(AIOKafkaProducer, "send_and_wait", send)
    few = settings.model_copy(
        update={"forecasting": settings.forecasting.model_copy(update={"calibration_hours": 1_440})}
    )

    async def serve() -> list[Prediction]:
        stop = asyncio.Event()
        service = PredictorService(few, WebHdfs(few.hdfs), SystemClock())
        running_service = asyncio.create_task(service.run(stop))
        topic = few.topic(TopicRole.PREDICTIONS).name

        async def both_baselines() -> list[Prediction]:
            found = await kafka.tail(few.kafka, topic, Prediction, 1_000, 10.0)
            return found if not failures and len(found) >= 2 else []

        await eventually_async(both_baselines, 60, "both baselines")
        stop.set()
        await running_service
        return await kafka.tail(few.kafka, topic, Prediction, 1_000, 10.0)

    assert sorted(p.model_version for p in asyncio.run(serve())) == ["har", "last-price"]


@pytest.mark.parametrize(
    ("client", "step", "times"),
    [
        (AIOKafkaProducer, "send_and_wait", 1),
        (AIOKafkaProducer, "start", 1),
        (AIOKafkaConsumer, "start", 1),
        (AIOKafkaConsumer, "end_offsets", 1),
    ],
    ids=["a prediction is sent", "the producer starts", "the group is joined", "what is published is read"],
)
def test_it_ends_in_time_when_kafka_is_suspended_while(
    stack: StackUnderTest,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    client: type,
    step: str,
    times: int,
) -> None:
    make_topics(settings, TOPICS)
    store(settings.hdfs, walk(700, start_ms=history()[0]["hour_start"][N - 700].cast(pa.int64()).as_py() // 1000))
    few = settings.model_copy(
        update={"forecasting": settings.forecasting.model_copy(update={"calibration_hours": 1_440})}
    )
    real, kafka_pid, steps = getattr(client, step), pid_of_kafka(stack), 0
    stopped_s: list[float] = []

    async def stopped(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == times:
            os.kill(kafka_pid, signal.SIGSTOP)
            stopped_s.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)
        return await real(*args, **kwargs)

    monkeypatch.setattr(client, step, stopped)
    try:
        assert asyncio.run(commands._serve(few)) == 0
        took_s = time.monotonic() - stopped_s[0]
    finally:
        os.kill(kafka_pid, signal.SIGCONT)
    assert took_s < ENDS_S
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_serve_without_a_broker_ends_with_one_clear_line(settings: Settings) -> None:
    env = {**environment_of(settings), "BDI_KAFKA__BROKERS": "127.0.0.1:9", "BDI_HDFS__WAIT_S": "1"}
    done = subprocess.run(command("serve"), env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "kafka.brokers: 127.0.0.1:9: no broker answers within 1 s" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_prediction_whose_target_is_over_is_never_published(settings: Settings, tmp_path: Path) -> None:
    make_topics(settings, TOPICS)
    store(settings.hdfs, walk(700))  # ends in 2023
    late = settings.model_copy(
        update={"forecasting": settings.forecasting.model_copy(update={"calibration_hours": 1_440})}
    )
    with running(command("serve"), tmp_path / "serve.log", environment_of(late)) as program:
        eventually(lambda: "no prediction published" in program.output(), 90, "the late target noticed")
    assert published(settings) == []


def test_serve_without_topics_ends_with_one_clear_line(settings: Settings) -> None:
    hdfs = settings.hdfs.model_copy(update={"wait_s": 3.0})
    env = environment_of(settings.model_copy(update={"hdfs": hdfs}))
    done = subprocess.run(command("serve"), env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "topics create" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_predict_prints_records_and_report_writes_a_table(settings: Settings, tmp_path: Path) -> None:
    more = settings.forecasting.model_copy(update={"train_hours": 1_600})
    now_ms = time.time_ns() // 1_000_000
    store(settings.hdfs, walk(1_800, start_ms=floor_to(now_ms, HOUR_MS) - 1_799 * HOUR_MS))
    env = environment_of(settings.model_copy(update={"forecasting": more}))
    done = subprocess.run(command("predict"), env=env, capture_output=True, timeout=120, check=True)
    printed = [decode(Prediction, line) for line in done.stdout.splitlines()]
    assert [p.model_version for p in printed] == ["har", "last-price"]
    subprocess.run(
        command("report", "--quick", "--models", "har-rich,drift,lstm-plain"), env=env, timeout=240, check=True
    )
    report = json.loads((tmp_path / "report" / "forecasting.json").read_bytes())
    assert [line["model"] for line in report["lines"]] == [
        "last-price",
        "ewma",
        "har",
        "har-rich",
        "drift",
        "lstm-plain",
    ]
    assert report["lines"][0]["rmse_over_last_price"] == pytest.approx(1.0)
    assert report["lines"][0]["direction_share"] is None
    text = (tmp_path / "report" / "forecasting.md").read_text()
    assert "| har-rich |" in text
    assert (tmp_path / "report" / "forecasting.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_market_is_one_clear_line(settings: Settings) -> None:
    done = subprocess.run(
        command("train", "--symbol", "DOGE-USD"),
        env=environment_of(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--symbol: 'DOGE-USD': expected one of BTC-USD" in done.stderr
    assert "Traceback" not in done.stderr
