"""How refused records are logged."""

import pytest

from streams.agents.dead_letters import RefusalLog
from tests.support.fake_clock import FakeClock


def test_refusals_are_logged_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    refusals = RefusalLog("clean", clock.monotonic)
    refusals.add([])
    for clock.now_s in (1.0, 2.0, 60.0):
        refusals.add(["no_data", "key"])
    assert len(caplog.records) == 1
    clock.now_s = 61.0
    refusals.add(["no_data"])
    assert caplog.records[-1].getMessage().endswith("see `dead-letters`: 3 no_data, 2 key")
