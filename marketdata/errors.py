"""The exceptions of the project.

BitcoinDataError
├── ConfigurationError          invalid settings; the program exits with one line
│   └── BrokerError             no Kafka broker answers, or a topic does not exist
├── InvalidValueError           a field has an unexpected value (has field, value, expected)
│   ├── ArgumentError           an argument of a command has an unexpected value
│   └── DecodeError             bytes that are not a valid record (has the reason code of a dead letter)
├── SourceError                 a request to an exchange failed
│   ├── RetryableSourceError    a retry may succeed (418, 429, 5xx, timeout, invalid payload); may have Retry-After
│   └── FatalSourceError        the source refuses (400, 401, 403, 451): pause, then try again
├── StorageError                HDFS is unavailable, or a file on it is invalid
├── StackError                  the local stack cannot be set up or started
└── ForecastError               a model cannot be trained, loaded or used
"""

import hashlib
from typing import ClassVar

from marketdata.vocabulary import Reason

MAX_SHOWN = 200
"""Characters of a value, field or expectation in an error."""


def shorten(text: str, limit: int = MAX_SHOWN) -> str:
    """Return a text of at most `limit` characters, and a note with the length and hash of a longer one."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text)} characters, sha256 {digest(text.encode(errors='replace'))})"


def digest(data: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 hash."""
    return hashlib.sha256(data).hexdigest()[:16]


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001  deep nesting, integers of more than 4,300 digits
        return f"<{type(value).__name__}: {type(error).__name__}>"


class BitcoinDataError(Exception):
    """The root. Entry points catch it, print one line instead of a traceback, and exit with `exit_code`."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(BitcoinDataError):
    """The settings are invalid."""

    exit_code = 2


class BrokerError(ConfigurationError):
    """No Kafka broker answers at `kafka.brokers`, or a topic does not exist there."""

    exit_code = 1


class InvalidValueError(BitcoinDataError):
    """A field has an unexpected value. `value` is its repr; all texts are shortened to `MAX_SHOWN` characters."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field = shorten(field)
        self.value = shorten(_repr(value))
        self.expected = shorten(expected)
        super().__init__(f"{self.field}: {self.value}: expected {self.expected}")


class ArgumentError(InvalidValueError):
    """An argument of a command has an unexpected value; `field` is its name."""

    exit_code = 2


class DecodeError(InvalidValueError):
    """Bytes that are not a valid record. `reason` is the reason code of the dead letter."""

    def __init__(self, reason: Reason, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.reason = reason


class SourceError(BitcoinDataError):
    """A request to an exchange failed. `kind` is the status in metrics and ticks (`SourceStatus`)."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class RetryableSourceError(SourceError):
    """A retry may succeed. `retry_after_s` is the server's Retry-After in seconds, None without one."""

    def __init__(self, message: str, kind: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, kind)
        self.retry_after_s = retry_after_s


class FatalSourceError(SourceError):
    """The source refuses the request: a retry at once cannot succeed. `code` is the exchange's error code, if any."""

    def __init__(self, message: str, kind: str, code: int | None = None) -> None:
        super().__init__(message, kind)
        self.code = code


class StorageError(BitcoinDataError):
    """HDFS is unavailable, or a file on it is missing or invalid."""


class StackError(BitcoinDataError):
    """The local stack cannot be set up or started."""


class ForecastError(BitcoinDataError):
    """A model cannot be trained, loaded or used."""
