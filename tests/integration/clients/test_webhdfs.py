"""Files on the real HDFS: atomic writes, and reads that are never torn."""

import threading

import pytest

from clients.webhdfs import WebHdfs
from config import Settings
from marketdata.errors import StorageError


@pytest.fixture
def storage(settings: Settings) -> WebHdfs:
    made = WebHdfs(settings.hdfs)
    made.wait()
    return made


def test_a_reader_beside_a_writer_sees_whole_versions_only(storage: WebHdfs, settings: Settings) -> None:
    path = f"{settings.hdfs.root}/a.bin"
    versions = [bytes([n]) * (50_000 + 10_000 * n) for n in range(20)]
    storage.write(path, versions[0])
    written = threading.Event()

    def replace() -> None:
        for version in versions:
            storage.write(path, version)
        written.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen = [storage.read(path)]
    while not written.is_set():
        seen.append(storage.read(path))
    writer.join()
    assert set(seen) <= set(versions)
    assert storage.read(path) == versions[-1]
    assert len(seen) > 1


def test_an_append_only_file_is_not_replaced(storage: WebHdfs, settings: Settings) -> None:
    path = f"{settings.hdfs.root}/000001.json"
    storage.write(path, b"first", overwrite=False)
    with pytest.raises(StorageError, match="000001"):
        storage.write(path, b"second", overwrite=False)
    assert storage.read(path) == b"first"


def test_of_two_who_write_the_same_new_file_one_wins_with_its_own_bytes(storage: WebHdfs, settings: Settings) -> None:
    others = WebHdfs(settings.hdfs)
    for number in range(15):
        path = f"{settings.hdfs.root}/{number:06d}.json"
        won: list[bytes] = []
        start = threading.Barrier(2)

        def write(who: WebHdfs, data: bytes, path: str = path, won: list[bytes] = won) -> None:
            start.wait()  # noqa: B023  joined within the round
            try:
                who.write(path, data, overwrite=False)
            except StorageError:
                return
            won.append(data)

        threads = [
            threading.Thread(target=write, args=(who, data)) for who, data in ((storage, b"one"), (others, b"two"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [storage.read(path)] == won


def test_a_file_that_is_absent_is_named(storage: WebHdfs, settings: Settings) -> None:
    with pytest.raises(StorageError, match="absent"):
        storage.read(f"{settings.hdfs.root}/absent")
    assert storage.files(f"{settings.hdfs.root}/nowhere") == []
