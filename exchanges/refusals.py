"""Pauses after refusals: firewalls and CDNs refuse for minutes, so no refusal stops a source for good."""

import random
from dataclasses import dataclass

_FIRST_S, _LONGEST_S = 30.0, 3600.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A source is not asked for `seconds` real seconds; `kind` and `problem` are those of the error before it.

    0 seconds: it is asked as usual and fails, for example because its host cannot be reached.
    """

    kind: str
    problem: str
    seconds: float


def refusal_pause_s(refusals: int) -> float:
    """Pause after a number of refusals in a row, in seconds of exchange time.

    It doubles from 30 s up to an hour; half of it is random, so that clients do not return at the same moment.

    Args:
        refusals: at least 1.
    """
    longest_s = min(_FIRST_S * 2.0 ** min(refusals - 1, 10), _LONGEST_S)
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  not for cryptography
