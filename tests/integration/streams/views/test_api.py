"""A real worker with a token: its OpenAPI document, live events, topics, metrics and dashboard."""

import asyncio
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from clients.clock import SystemClock
from config import Settings
from devstack.stack import ROOT
from marketdata.codec import encode
from marketdata.records import Record
from marketdata.times import HOUR_MS, MINUTE_MS, floor_to, to_rfc3339
from marketdata.topics import TOPICS, TopicRole
from streams.kafka import topics
from streams.views.openapi import EVENTS
from tests.support.browser import chromium
from tests.support.builders import SYMBOL, candle, part_status, prediction, score, tick
from tests.support.stack import Program, StackUnderTest, alone, eventually, free_ports, running
from tests.support.streams_worker import command, everything, send, without_exchanges, worker

TOKEN = "a-token-of-the-test"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
PART = b"raw/host:1"
OPEN = ("/health/live", "/health/ready")
LIVE_ONLY = {"resync"}  # sent to listeners that do not keep up


@dataclass(frozen=True)
class Api:
    """A worker with a record of each kind on its topics."""

    settings: Settings
    program: Program
    now_ms: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.settings.streams.web_port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.address + path, trust_env=False, timeout=10, **{"headers": AUTHORIZED} | options)

    def publish(self, role: TopicRole, *records: Record, key: bytes | None = None) -> None:
        items = [(record.symbol.encode() if key is None else key, encode(record)) for record in records]
        asyncio.run(send(self.settings, role, items))


def feed(api: Api) -> None:
    """Publish records of every kind."""
    hour = floor_to(api.now_ms, HOUR_MS)
    forecasts = [prediction(hour - n * HOUR_MS, prediction_id=f"{api.now_ms}|{n}") for n in range(3)]
    before, crossed, newest = (tick(api.now_ms + ms) for ms in (-MINUTE_MS, 0, 1))
    api.publish(TopicRole.TICKS, before, msgspec.structs.replace(crossed, bid_price=102.0), newest)
    api.publish(TopicRole.CANDLES, candle(floor_to(api.now_ms, MINUTE_MS) - MINUTE_MS))
    api.publish(TopicRole.PREDICTIONS, *forecasts)
    scored = [score(one, covered=one is not forecasts[1], scored_at=to_rfc3339(api.now_ms)) for one in forecasts[1:]]
    api.publish(TopicRole.PREDICTION_SCORES, *scored)
    api.publish(TopicRole.PART_STATUS, part_status(SystemClock().now_ms(), next_report_s=3_600.0), key=PART)


@pytest.fixture(scope="module")
def api(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    own = without_exchanges(alone(stack.settings, folder / "streams"))
    plot = folder / "plot.png"
    plot.write_bytes(one_pixel())
    settings = own.model_copy(
        update={
            "streams": own.streams.model_copy(update={"web_token": SecretStr(TOKEN)}),
            "forecasting": own.forecasting.model_copy(update={"plot_path": plot}),
        }
    )
    asyncio.run(topics.ensure(settings))
    with worker(settings, folder / "worker.log") as program:
        made = Api(settings, program, SystemClock().now_ms())
        feed(made)

        def is_complete() -> bool:
            program.check_running()
            try:
                if made.get("/health/ready").status_code != httpx.codes.OK:
                    return False
            except httpx.TransportError:
                return False
            health = made.get("/api/health").json()
            counts = {part["part"]: part["records"] for part in health["parts"]}
            return all(counts.values()) and bool(health["dead_letters"]["by_reason"]) and bool(health["sources"])

        eventually(is_complete, 60, "a record of each topic in the views", every_s=0.2)
        yield made


def one_pixel() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def closed(schema: Any) -> Any:
    """Return the schema with all undeclared properties forbidden."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return inner | {"additionalProperties": False} if "properties" in inner else inner


def validate(document: Any, schema: Any, whole: Any) -> None:
    Draft202012Validator(closed(schema | {"components": whole["components"]}), format_checker=FormatChecker()).validate(
        document
    )


def operations(document: Any) -> list[tuple[str, Any]]:
    return [(path.replace("{symbol}", SYMBOL), entry["get"]) for path, entry in document["paths"].items()]


def test_every_path_responds_as_documented(api: Api) -> None:
    document = api.get("/api/openapi.json").json()
    assert len(document["paths"]) >= 12
    for path, operation in operations(document):
        wanted = operation["responses"]["200"]["content"]
        ((media, content),) = wanted.items()
        if media == "text/event-stream":
            continue
        query = {p["name"]: SYMBOL if p["schema"]["type"] == "string" else 1 for p in operation.get("parameters", ())}
        for asked in ({}, {p: v for p, v in query.items() if "{" + p + "}" not in path and path.find(SYMBOL) < 0}):
            answer = api.get(path, params=asked)
            assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, media), path
            if media == "application/json":
                validate(answer.json(), content["schema"], document)


def test_every_path_rejects_requests_as_documented(api: Api) -> None:
    document = api.get("/api/openapi.json").json()
    error = {"$ref": "#/components/schemas/Error"}
    for path, operation in operations(document):
        asked: dict[int, httpx.Response] = {}
        if "401" in operation["responses"]:
            asked[401] = api.get(path, headers={})
        if "400" in operation["responses"]:
            asked[400] = api.get(path, params={"colour": "red"})
        if "404" in operation["responses"] and not path.endswith(".png"):
            unknown = path.replace(SYMBOL, "XXX-YYY")
            asked[404] = api.get(unknown, params={} if unknown != path else {"symbol": "XXX-YYY"})
        for status, answer in asked.items():
            assert answer.status_code == status, path
            validate(answer.json(), error, document)
        assert bool(asked) != (path in OPEN), path


def test_live_events_match_the_document(api: Api) -> None:
    document = api.get("/api/openapi.json").json()
    schemas = document["paths"]["/api/events"]["get"]["x-events"]
    assert set(schemas) == set(EVENTS)
    seen: Counter[str] = Counter()
    with httpx.stream(
        "GET",
        f"{api.address}/api/events",
        params={"symbol": SYMBOL, "snapshot": 1},
        headers=AUTHORIZED,
        trust_env=False,
        timeout=30,
    ) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                validate(json.loads(line.removeprefix("data: ")), schemas[name], document)
                if not seen:
                    feed(Api(api.settings, api.program, SystemClock().now_ms()))
                seen[name] += 1
                if set(seen) >= set(EVENTS) - LIVE_ONLY or seen["health"] > 20:  # one comes every 2 s
                    break
    assert set(seen) == set(EVENTS) - LIVE_ONLY


@pytest.mark.parametrize("role", list(TOPICS))
def test_messages_match_asyncapi(api: Api, role: TopicRole) -> None:
    document = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text(encoding="utf-8"))
    messages = asyncio.run(everything(api.settings, role))
    assert messages
    for message in messages:
        validate(json.loads(message.value), {"$ref": f"#/components/schemas/{TOPICS[role].record}"}, document)
        assert message.key == (PART if role is TopicRole.PART_STATUS else SYMBOL.encode())


def test_metrics_contain_sources_agents_refusals_and_scores(api: Api) -> None:
    def value(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(api.get("/metrics").text)
        found = [
            s.value
            for family in families
            for s in family.samples
            if s.name == name and labels.items() <= s.labels.items()
        ]
        return sum(found) if found else -1.0

    for agent in ("clean", "features"):
        assert value("bitcoin_agent_events_total", agent=agent) >= 2
        assert value("bitcoin_agent_latency_seconds_count", agent=agent) >= 1
        assert 0 < value("bitcoin_agent_latency_seconds_sum", agent=agent) < 600
        eventually(lambda agent=agent: value("bitcoin_agent_lag", agent=agent) == 0, 20, "no lag")  # type: ignore[misc]
    assert value("bitcoin_dead_letters_total", reason="crossed_quote") >= 1
    assert value("bitcoin_source_age_seconds", source="binance") >= 0
    assert value("bitcoin_part_state", part="raw", state="running") == 1
    assert value("bitcoin_part_lag", part="raw") == 3
    eventually(lambda: value("bitcoin_part_state", part="hdfs", state="running") == 1, 20, "a probe of HDFS")
    by = {"symbol": SYMBOL, "role": "champion", "origin": "live"}
    assert value("bitcoin_forecast_scores", **by) >= 2
    assert 0 < value("bitcoin_forecast_coverage_ratio", **by) < 1
    assert value("bitcoin_forecast_absolute_error_bps", **by) == pytest.approx(10.0)
    assert value("bitcoin_forecast_last_price_absolute_error_bps", **by) == pytest.approx(12.5)
    assert value("bitcoin_forecast_pinball_bps", **by) == pytest.approx(3.0)


def test_idle_connections_do_not_stop_event_processing(api: Api) -> None:
    """A thousand of them, on a worker that may open 1,024 files."""
    psutil.Process(api.program.process.pid).rlimit(psutil.RLIMIT_NOFILE, (1_024, 1_024))

    def newest_price() -> float | None:
        try:
            rows = api.get("/api/markets").json()["markets"]
        except httpx.TransportError:  # its connection may be closed as an idle one, before the request arrives
            return None
        return float(next(row["price"] for row in rows if row["symbol"] == SYMBOL))

    with ExitStack() as idle:
        for _ in range(1_000):
            one = idle.enter_context(socket.socket())
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", api.settings.streams.web_port))
        for price in (101.5, 99.5):
            now_ms = SystemClock().now_ms()
            api.publish(TopicRole.TICKS, tick(now_ms, price=price))
            eventually(lambda price=price: newest_price() == price, 15, f"the price {price} beside idle connections")
    api.program.check_running()


def test_the_grafana_dashboard_uses_existing_metrics(api: Api) -> None:
    text = api.get("/metrics").text
    there: set[str] = set()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        there |= {family.name + kind for kind in kinds}
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    dashboard = json.loads((ROOT / "docs" / "grafana" / "bitcoin-data.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    variables = [v["query"]["query"] for v in dashboard["templating"]["list"] if isinstance(v["query"], dict)]
    asked = {name for query in queries + variables for name in re.findall(r"\bbitcoin_\w+", query)}
    assert len(asked) > 20
    assert asked - there == set()
    for query in queries:
        for name in re.findall(r"\bbitcoin_\w+", query):
            by = {one for group in re.findall(r"\bby \(([^)]*)\)", query) for one in re.split(r",\s*", group)}
            assert name not in labels or by <= labels[name] | {"le"}, query


def test_the_example_prints_predictions_and_skips_invalid_records(api: Api, tmp_path: Path) -> None:
    kafka = api.settings.kafka
    topic = api.settings.topic(TopicRole.PREDICTIONS).name
    later = encode(prediction(api.now_ms)).replace(b'"schema_version":1', b'"schema_version":2')
    asyncio.run(send(api.settings, TopicRole.PREDICTIONS, [(b"x", b"garbage"), (b"x", later), (b"x", None)]))
    example = ROOT / "examples" / "consume_predictions.py"
    code = example.read_text().partition('"""\n\n')[2].splitlines()
    assert len([line for line in code if line]) <= 15
    words = [sys.executable, str(example)]
    with running([*words, kafka.brokers, topic], tmp_path / "example.log", {}) as program:
        wanted = re.compile(rf"^{SYMBOL} \S+: 99 to 103 \(champion\)$", re.MULTILINE)
        passed = re.compile(r"^skipped \d+@\d+, not a prediction: (\w+)", re.MULTILINE)
        eventually(
            lambda: len(wanted.findall(program.output())) >= 3 and len(passed.findall(program.output())) == 3,
            30,
            "three predictions printed and three records skipped",
        )
        assert "KeyError(2)" in program.output()  # the later schema version
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(10) == -signal.SIGINT  # exit code 130 in a shell
        assert program.output().endswith("\nended: KeyboardInterrupt()\n")
    port = str(free_ports(1)[0])
    ended = subprocess.run([*words, f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"\nended: KafkaConnectionError(\"Unable to bootstrap from [('127.0.0.1', {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_browser_opens_the_page_with_the_token_once(api: Api, tmp_path: Path) -> None:
    with chromium(tmp_path) as page:
        page.open(f"{api.address}/?token={TOKEN}")
        eventually(lambda: page.text("#link-text") == "Live", 20, "the live stream")
        assert page.run("return location.href") == f"{api.address}/"
        assert page.run("return document.cookie") == ""


@pytest.mark.parametrize(("host", "options"), [("0.0.0.0", []), ("127.0.0.1", ["--web-bind", "0.0.0.0"])])
def test_a_worker_without_token_refuses_a_public_address(api: Api, host: str, options: list[str]) -> None:
    streams = api.settings.streams.model_copy(update={"web_host": host, "web_token": None})
    settings = api.settings.model_copy(update={"streams": streams})
    ended = command(settings, "worker", "-l", "info", *options, code=2)
    assert "the worker cannot start: streams.web_host: '0.0.0.0': expected a loopback address" in ended.stderr


def test_a_worker_does_not_start_with_the_folder_or_port_of_another(api: Api, tmp_path: Path) -> None:
    streams = api.settings.streams
    other_port, other_folder = {"web_port": free_ports(1)[0]}, {"data_dir": tmp_path / "other"}
    for change, problem in (
        (other_port, f"streams.data_dir: {streams.data_dir}: locked by pid {api.program.process.pid}, expected"),
        (other_folder, f"streams.web_port: {streams.web_port}: expected a free port on {streams.web_host}"),
    ):
        settings = api.settings.model_copy(update={"streams": streams.model_copy(update=change)})
        ended = command(settings, "worker", "-l", "info", code=1)
        assert f"the worker cannot start: {problem}" in ended.stderr
    api.program.check_running()
    assert api.get("/health/ready").status_code == httpx.codes.OK
