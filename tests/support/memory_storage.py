"""A storage client that keeps whole files in memory."""

from clients.webhdfs import FileState


class MemoryStorage:
    """The methods of `clients.webhdfs.WebHdfs` that read and write files, without HDFS."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.contents = dict(files or {})

    def files(self, folder: str, suffix: str = "") -> list[FileState]:
        return [
            FileState(path, hash(data), len(data))
            for path, data in sorted(self.contents.items())
            if path.rpartition("/")[0] == folder and path.endswith(suffix)
        ]

    def folders(self, folder: str) -> list[str]:
        inside = [path.removeprefix(f"{folder}/") for path in self.contents if path.startswith(f"{folder}/")]
        return sorted({path.split("/")[0] for path in inside if "/" in path})

    def exists(self, path: str) -> bool:
        return path in self.contents

    def read(self, path: str) -> bytes:
        return self.contents[path]

    def read_many(self, paths: list[str]) -> list[bytes]:
        return [self.contents[path] for path in paths]

    def write(self, path: str, data: bytes, *, overwrite: bool = True) -> None:
        if path in self.contents and not overwrite:
            raise FileExistsError(path)
        self.contents[path] = data
