"""WebHDFS answers that break off, hide files or do not come, from a scripted server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from clients.webhdfs import FileState, WebHdfs
from config.sections import HdfsSettings
from marketdata.errors import StorageError
from tests.support.stack import free_ports

CONTENT = b"0123456789"


class Server(ThreadingHTTPServer):
    """Folders by path, and how many more reads break off half way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders: dict[str, list[tuple[str, str]]] = {}
        self.broken_reads = 0
        self.reads = 0

    def client(self) -> WebHdfs:
        return WebHdfs(HdfsSettings(webhdfs=f"http://127.0.0.1:{self.server_port}", wait_s=20.0))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/webhdfs/v1")
        operation = parse_qs(urlsplit(self.path).query)["op"][0]
        if operation == "LISTSTATUS" and path not in self.server.folders:
            refusal = {"exception": "FileNotFoundException", "message": f"File {path} does not exist."}
            self._answer(404, json.dumps({"RemoteException": refusal}).encode())
        elif operation == "LISTSTATUS":
            found = [status(name, kind) for name, kind in self.server.folders[path]]
            self._answer(200, json.dumps({"FileStatuses": {"FileStatus": found}}).encode())
        elif operation == "GETFILESTATUS":
            self._answer(200, json.dumps({"FileStatus": status("", "FILE")}).encode())
        else:
            self.server.reads += 1
            broken = self.server.reads <= self.server.broken_reads
            self._answer(200, CONTENT[:5] if broken else CONTENT, len(CONTENT))

    def _answer(self, code: int, body: bytes, length: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_args: Any) -> None:
        """Nothing."""


def status(name: str, kind: str) -> dict[str, Any]:
    return {"pathSuffix": name, "type": kind, "length": len(CONTENT), "modificationTime": 1}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_read_that_breaks_off_is_repeated(server: Server) -> None:
    server.broken_reads = 2
    assert server.client().read("/a") == CONTENT
    assert server.reads == 3


def test_a_file_that_never_comes_whole_is_one_clear_line(server: Server) -> None:
    server.broken_reads = 1_000
    address = f"127.0.0.1:{server.server_port}"
    with pytest.raises(StorageError, match=rf"^hdfs\.webhdfs: http://{address}: /a cannot be read: "):
        server.client().read("/a")
    assert server.reads == 6


def test_a_file_that_is_not_parquet_is_one_clear_line(server: Server) -> None:
    with pytest.raises(StorageError, match=r"/a cannot be read: .*Parquet"):
        server.client().read_table("/a")
    assert server.reads == 1


def test_hidden_names_are_left_out_and_absent_folders_are_empty(server: Server) -> None:
    server.folders = {
        "/t": [("b.parquet", "FILE"), ("_x", "DIRECTORY"), (".c.parquet", "FILE"), ("a", "DIRECTORY"), ("n", "FILE")],
        "/t/a": [("z.parquet", "FILE"), ("_y.parquet", "FILE")],
        "/t/_x": [("hidden.parquet", "FILE")],
    }
    hdfs = server.client()
    assert hdfs.files("/t", ".parquet") == [FileState("/t/b.parquet", 1, len(CONTENT))]
    assert [file.path for file in hdfs.files("/t", ".parquet", recursive=True)] == ["/t/a/z.parquet", "/t/b.parquet"]
    assert hdfs.folders("/t") == ["a"]
    assert hdfs.files("/absent") == []


def test_an_hdfs_that_does_not_answer_is_one_clear_line() -> None:
    (port,) = free_ports(1)
    hdfs = WebHdfs(HdfsSettings(webhdfs=f"http://127.0.0.1:{port}", wait_s=0.5))
    with pytest.raises(StorageError, match=rf"^hdfs\.webhdfs: http://127\.0\.0\.1:{port}: HDFS did not answer within"):
        hdfs.wait()
