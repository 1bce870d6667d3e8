"""The body of an HTTP response, decompressed piece by piece and limited in size.

httpx decompresses whole chunks, so that 64 KB from the network can become 64 MB at once.
"""

import zlib

import httpx

from marketdata.errors import InvalidValueError

MAX_BODY_BYTES = 4 << 20
"""Default limit of a decompressed body; 1,000 klines have 0.2 MB, and the quotes of 1,000 markets 0.1 MB."""

_MAX_ERROR_BYTES = 16 << 10  # of a response that is not 2xx: only its beginning is used
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class Body:
    """Collects the body of one response."""

    def __init__(self, response: httpx.Response, max_bytes: int) -> None:
        """Start empty.

        Args:
            response: whose headers are known.
            max_bytes: limit of the decompressed body.

        Raises:
            InvalidValueError: the encoding is not one that was asked for.
        """
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise InvalidValueError("content-encoding", encoding, "gzip or none")
        self._is_error = not response.is_success
        self._max_bytes = _MAX_ERROR_BYTES if self._is_error else max_bytes
        self._decompressor = None if encoding in ("identity", "") else zlib.decompressobj(_GZIP_OR_ZLIB)
        self._content = bytearray()

    def add(self, chunk: bytes) -> bool:
        """Add bytes from the network; return False if no more are needed.

        Raises:
            InvalidValueError: the body is too large, or does not decompress.
        """
        if self._decompressor is not None:
            try:
                chunk = self._decompressor.decompress(chunk, self._max_bytes - len(self._content) + 1)
            except zlib.error as error:
                if self._is_error:
                    return False
                raise InvalidValueError("body", bytes(self._content[:40]), f"gzip ({error})") from error
        self._content += chunk[: self._max_bytes - len(self._content) + 1]
        if len(self._content) <= self._max_bytes:
            return True
        if self._is_error:
            return False
        raise InvalidValueError("body", bytes(self._content[:40]), f"at most {self._max_bytes:,} bytes")

    def content(self) -> bytes:
        """The whole body."""
        return bytes(self._content)
