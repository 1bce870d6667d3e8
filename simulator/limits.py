"""Request weights as Binance counts them: 429 beyond the limit, 418 when that is ignored.

Must never import the server.
"""

import math
from dataclasses import dataclass

from marketdata.times import MINUTE_MS, floor_to

WEIGHT_LIMIT = 6000
BAN_S = 120
IGNORED_BEFORE_BAN = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """429 (too much) or 418 (banned), and the exchange seconds to wait."""

    status: int
    retry_after_s: int


class WeightLimiter:
    """The used weight of the running exchange minute, for all clients together.

    A refused client is to stay away for Retry-After. The first `ignored_before_ban` requests before that get 429 again,
    the next brings a ban (418) of `BAN_S`; each request during a ban gets 418.
    """

    def __init__(self, limit: int = WEIGHT_LIMIT) -> None:
        self.limit = limit
        self.ignored_before_ban = IGNORED_BEFORE_BAN
        self.used = 0
        self._minute_ms = 0
        self._blocked_until_ms = 0
        self._ignored = 0
        self._banned = False

    def charge(self, weight: int, now_ms: int) -> Refusal | None:
        """Count a request; a refusal if it is not to be served."""
        minute_ms = floor_to(now_ms, MINUTE_MS)
        if minute_ms != self._minute_ms:
            self._minute_ms, self.used = minute_ms, 0
        self.used += weight
        if now_ms < self._blocked_until_ms:
            self._ignored += 1
            if not self._banned and self._ignored > self.ignored_before_ban:
                self._banned = True
                self._blocked_until_ms = now_ms + BAN_S * 1000
            return self._refusal(now_ms)
        self._banned = False
        if self.used > self.limit:
            return self.refuse(now_ms, (minute_ms + MINUTE_MS - now_ms) / 1000)
        return None

    def refuse(self, now_ms: int, retry_after_s: float, *, ban: bool = False) -> Refusal:
        """Begin a time of refusals."""
        self._blocked_until_ms = now_ms + math.ceil(retry_after_s * 1000)
        self._ignored = 0
        self._banned = ban
        return self._refusal(now_ms)

    def clear(self) -> None:
        """Forget refusals, bans and used weight."""
        self.used = 0
        self._blocked_until_ms = 0
        self._banned = False

    def _refusal(self, now_ms: int) -> Refusal:
        return Refusal(418 if self._banned else 429, max(math.ceil((self._blocked_until_ms - now_ms) / 1000), 1))
