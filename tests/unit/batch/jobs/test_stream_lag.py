"""The lag of the stream, from Spark's progress report."""

import json

from batch.jobs.stream import lag_of


def test_the_lag_is_summed_over_partitions_and_topics() -> None:
    end = {"ticks": {"0": 5, "1": 7}, "candles": {"0": 3}}
    latest = {"ticks": {"0": 9, "1": 7}, "candles": {"0": 13}}
    assert lag_of([{"endOffset": json.dumps(end), "latestOffset": json.dumps(latest)}]) == 14
    assert lag_of([{"endOffset": end, "latestOffset": latest}]) == 14


def test_a_partition_without_an_end_has_no_lag_and_nothing_is_negative() -> None:
    """The first micro-batch has no end yet, and the latest offset can be older than the end."""
    assert lag_of([{"endOffset": None, "latestOffset": {"ticks": {"0": 9}}}]) == 0
    assert lag_of([{"endOffset": {"ticks": {"0": 9}}, "latestOffset": {"ticks": {"0": 5}}}]) == 0
    assert lag_of([{"endOffset": {"ticks": {"0": 9}}, "latestOffset": None}]) == 0
    assert lag_of([]) == 0
