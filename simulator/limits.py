"""Request weights as Binance counts them: 429 above the limit, 418 (a ban) for clients that ignore it."""

import math
from dataclasses import dataclass

from marketdata.times import MINUTE_MS, floor_to

WEIGHT_LIMIT = 6000
BAN_S = 120
IGNORED_BEFORE_BAN = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """Status 429 (too many requests) or 418 (banned), and the exchange seconds to wait."""

    status: int
    retry_after_s: int


class WeightLimiter:
    """Counts the weight used in the current exchange minute, for all clients together.

    A refused client must wait for Retry-After. The first `ignored_before_ban` earlier requests get 429 again, the next
    one starts a ban (418) of `BAN_S` seconds. Every request during a ban gets 418.
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
        """Count a request; return a refusal if it must not be served."""
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
        """Refuse all requests for `retry_after_s` exchange seconds."""
        self._blocked_until_ms = now_ms + math.ceil(retry_after_s * 1000)
        self._ignored = 0
        self._banned = ban
        return self._refusal(now_ms)

    def clear(self) -> None:
        """Reset refusals, bans and used weight."""
        self.used = 0
        self._blocked_until_ms = 0
        self._banned = False

    def _refusal(self, now_ms: int) -> Refusal:
        return Refusal(418 if self._banned else 429, max(math.ceil((self._blocked_until_ms - now_ms) / 1000), 1))
