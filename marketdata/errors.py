"""Every error of the project.

BitcoinDataError
├── ConfigurationError          settings that cannot be used; the program stops with one clear line
│   └── BrokerError             no Kafka broker answers, or a topic does not exist
├── InvalidValueError           a field's value is not what was expected (names field, value, expected)
│   └── DecodeError             bytes that are not a valid record (has a reason code for the dead-letter topic)
├── SourceError                 an exchange did not give what was asked
│   ├── RetryableSourceError    may go well later (418, 429, 5xx, time-outs, garbage); may carry Retry-After
│   └── FatalSourceError        will not go well (400, 401, 403, 451): the source stops and says so
├── StorageError                HDFS or a file on it is not as it must be
├── StackError                  the local stack cannot be set up or started
└── ForecastError               a model cannot be trained, loaded or trusted
"""

from marketdata.vocabulary import Reason


class BitcoinDataError(Exception):
    """The root: catch it at a program's border to print one line instead of a traceback."""


class ConfigurationError(BitcoinDataError):
    """Settings that cannot be used."""


class BrokerError(ConfigurationError):
    """No Kafka broker answers at `kafka.brokers`, or a topic does not exist there."""


class InvalidValueError(BitcoinDataError):
    """A field's value is not what was expected."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        shown = repr(value)
        if len(shown) > 200:  # noqa: PLR2004  a message is for people
            shown = shown[:200] + "…"
        super().__init__(f"{field}: {shown}: expected {expected}")
        self.field = field
        self.value = shown
        self.expected = expected


class DecodeError(InvalidValueError):
    """Bytes that are not a valid record; `reason` is the code that dead letters carry."""

    def __init__(self, reason: Reason, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.reason = reason


class SourceError(BitcoinDataError):
    """An exchange did not give what was asked; `kind` is the label that metrics and tick statuses carry."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class RetryableSourceError(SourceError):
    """May go well later; `retry_after_s` is the server's own wish, None where it told none."""

    def __init__(self, message: str, kind: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, kind)
        self.retry_after_s = retry_after_s


class FatalSourceError(SourceError):
    """Will not go well by trying again: the source stops and says so. `code` is the exchange's own, if any."""

    def __init__(self, message: str, kind: str, code: int | None = None) -> None:
        super().__init__(message, kind)
        self.code = code


class StorageError(BitcoinDataError):
    """HDFS, or a file on it, is not as it must be."""


class StackError(BitcoinDataError):
    """The local stack cannot be set up or started."""


class ForecastError(BitcoinDataError):
    """A model cannot be trained, loaded or trusted."""
