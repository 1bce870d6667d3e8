"""The running stack: Kafka, HDFS, status, temporary files."""

import io
import json
import subprocess
import sys

import httpx
import pandas as pd
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from clients.kafka.connection import client_options, close_client
from clients.webhdfs import connect
from config import Settings
from devstack.stack import ROOT
from devstack.state import SCRATCH, load_state
from marketdata.vocabulary import ProductPart
from tests.support.stack import StackUnderTest, environment_of, read_table, settings_with


async def test_kafka_carries_a_record(settings: Settings) -> None:
    topic = f"{settings.topics.prefix}hello"
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await close_client(admin)
    async with AIOKafkaProducer(**client_options(settings.kafka)) as producer:
        await producer.send_and_wait(topic, b"tick", key=b"BTC-USD")
    async with AIOKafkaConsumer(
        topic, **client_options(settings.kafka), auto_offset_reset="earliest", group_id=topic
    ) as consumer:
        record = await consumer.getone()
    assert (record.key, record.value) == (b"BTC-USD", b"tick")


def test_hdfs_keeps_a_file(settings: Settings) -> None:
    client = connect(settings.hdfs)
    path = f"{settings.hdfs.root}/hello"
    client.write(path, b"rows")
    with client.read(path) as reader:
        assert reader.read() == b"rows"


def test_a_web_page_cannot_change_hdfs(settings: Settings) -> None:
    """A form sends POST, and scripts of old browsers send more; none of them sends the header of the CSRF filter."""
    client = connect(settings.hdfs)
    path = f"{settings.hdfs.root}/kept"
    client.write(path, b"rows")
    namenode = f"{settings.hdfs.webhdfs}/webhdfs/v1{path}"
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0)", "Origin": "http://page.example"}
    reading = httpx.get(namenode, params={"op": "OPEN", "user.name": settings.hdfs.user}, trust_env=False)
    datanode = reading.headers["Location"].replace("op=OPEN", "op={op}")
    assert httpx.get(datanode.format(op="OPEN"), headers=browser, trust_env=False).content == b"rows"
    query = f"?op={{op}}&user.name={settings.hdfs.user}&newlength=0&recursive=true&overwrite=true"
    for address in (namenode + query, datanode):
        for method, op in (("POST", "TRUNCATE"), ("POST", "APPEND"), ("PUT", "CREATE"), ("DELETE", "DELETE")):
            answer = httpx.request(method, address.format(op=op), headers=browser, trust_env=False)
            assert (answer.status_code, "CSRF" in answer.reason_phrase) == (400, True), (address, op)
    level = {"log": "org.apache.hadoop", "level": "ERROR"}
    answer = httpx.get(f"{settings.hdfs.webhdfs}/logLevel", params=level, headers=browser, trust_env=False)
    assert answer.status_code == 403
    with client.read(path) as reader:
        assert reader.read() == b"rows"


def test_read_table_skips_hidden_folders(settings: Settings) -> None:
    client = connect(settings.hdfs)
    for path, rows in (("date=2024-08-05/a", [1, 2]), ("date=2024-08-06/b", [3]), ("_staging/c", [4])):
        data = io.BytesIO()
        pd.DataFrame({"row": rows}).to_parquet(data)
        client.write(f"{settings.hdfs.root}/table/{path}.parquet", data.getvalue())
    assert sorted(read_table(settings, f"{settings.hdfs.root}/table")["row"]) == [1, 2, 3]
    assert read_table(settings, f"{settings.hdfs.root}/none").empty


def test_status_checks_each_part(stack: StackUnderTest) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "devstack", "status", "--json"],
        env=stack.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    parts = json.loads(result.stdout)
    assert {name: part["healthy"] for name, part in parts.items()} == {
        "kafka": True,
        "hdfs": True,
        "webhdfs": True,
        "exchange": False,
        "web": False,
        **dict.fromkeys(ProductPart, False),
    }
    assert parts["kafka"]["address"] == stack.settings.kafka.brokers
    assert parts["kafka"]["pid"] > 0
    assert parts["web"]["detail"] == "not running"


@pytest.mark.parametrize(("part", "exit_code"), [("kafka", 0), ("hdfs", 0), ("exchange", 1)])
def test_status_of_one_part_is_a_health_check(stack: StackUnderTest, part: str, exit_code: int) -> None:
    """The exchange does not run in this stack; Kafka is healthy all the same."""
    result = subprocess.run(
        [sys.executable, "-m", "devstack", "status", "--json", "--part", part],
        env=stack.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == exit_code, result.stderr
    assert list(json.loads(result.stdout)) == [part]


def test_the_jvms_leave_nothing_outside_the_state_folder(stack: StackUnderTest) -> None:
    """Jetty's folders and unpacked libraries are in the scratch folder, which is removed with the stack."""
    scratch = stack.state_dir.resolve() / SCRATCH
    assert any(path.name.startswith("jetty-") for path in scratch.iterdir())
    state = load_state(stack.state_dir)
    assert state is not None
    for name in ("kafka", "namenode", "datanode"):
        process = state.parts[name].process
        assert process is not None
        command = psutil.Process(process.pid).cmdline()
        assert f"-Djava.io.tmpdir={scratch}" in command
        assert "-XX:-UsePerfData" in command


def test_a_second_start_in_the_same_folder_is_refused(stack: StackUnderTest) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "devstack", "up"], env=stack.env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "already runs" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_environment_reproduces_the_settings(settings: Settings) -> None:
    environ = {key: value for key, value in environment_of(settings).items() if key.startswith("BDI_")}
    assert settings_with(environ) == settings
