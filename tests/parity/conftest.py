"""The Spark session of parity tests, one per module: a session that outlives them would serve other folders' tests."""

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from tests.support.spark import session
from tests.support.stack import settings_with


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """The product's Spark session; it connects to no HDFS."""
    with session(settings_with({})) as spark:
        yield spark
