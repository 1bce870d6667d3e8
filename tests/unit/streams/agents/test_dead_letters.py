"""How refused records are logged."""

import pytest

from streams.agents.dead_letters import RefusalLog


def test_refusals_are_logged_at_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    refusals = RefusalLog("clean", lambda: now[0])
    refusals.add([])
    for now[0] in (1.0, 2.0, 60.0):
        refusals.add(["no_data", "key"])
    assert len(caplog.records) == 1
    now[0] = 61.0
    refusals.add(["no_data"])
    assert caplog.records[-1].getMessage().endswith("see `dead-letters`: 3 no_data, 2 key")
