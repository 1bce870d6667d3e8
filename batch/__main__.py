"""`python -m batch raw|hourly|backfill|verify|gaps`: loads the settings and runs one batch job."""

import argparse
import logging
import sys
from functools import partial

import stamina
from py4j.protocol import Py4JError
from pydantic import ValidationError
from pyspark.errors import PySparkException

from batch.spark.jvm import kill_jvm
from clients.clock import SystemClock
from clients.logging_setup import set_up_logging
from clients.stop_signals import StopFlag
from config import Settings, load_settings
from marketdata.arguments import Parser, time_range, whole_number
from marketdata.bounds import MAX_HISTORY_H
from marketdata.errors import BitcoinDataError, ConfigurationError, SourceError
from marketdata.printable import write_error
from marketdata.vocabulary import Activity, ProductPart

_log = logging.getLogger("batch")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m batch", description="Batch jobs on HDFS: raw data, hourly rows, backfill, verification."
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    raw = jobs.add_parser("raw", help="store clean ticks and candles in raw_data, minute_candles and hourly_metrics")
    raw.add_argument("--once", action="store_true", help="store everything published so far, then exit")
    raw.add_argument("--no-hourly", action="store_true", help="do not write hourly_metrics; run the hourly job for it")
    raw.add_argument(
        "--from-earliest-available",
        action="store_true",
        help="skip records that were deleted from the topics before they were stored, and record them as lost",
    )
    hourly = jobs.add_parser("hourly", help="recompute hourly rows from raw_data and minute_candles")
    hourly.add_argument("--from", dest="start", metavar="TIME", help="start, RFC 3339; default: the first stored hour")
    hourly.add_argument(
        "--to", dest="end", metavar="TIME", help="end (exclusive), RFC 3339; default: the last closed hour"
    )
    backfill = jobs.add_parser("backfill", help="fill the tables with historical klines of the exchange")
    backfill.add_argument(
        "--hours",
        type=whole_number(1, MAX_HISTORY_H),
        metavar="N",
        help="hours of 1h klines before --to; default: batch.backfill_hours",
    )
    backfill.add_argument(
        "--minutes",
        type=whole_number(0, MAX_HISTORY_H * 60),
        metavar="N",
        help="minutes of 1m klines before --to; default: batch.backfill_minutes",
    )
    backfill.add_argument("--to", dest="end", metavar="TIME", help="end (exclusive), RFC 3339; default: now")
    backfill.add_argument("--symbols", help="comma-separated symbols; default: the markets of the settings")
    backfill.add_argument(
        "--archive", metavar="FOLDER", help="read downloaded kline archives instead of the exchange API"
    )
    backfill.add_argument(
        "--replace",
        action="store_true",
        help="read stored klines again too, and replace stored minutes that differ; their hourly rows are recomputed",
    )
    backfill.add_argument(
        "--retry",
        action="store_true",
        help="while the exchange or HDFS fails, try again after pauses that grow up to 1 h, until all is stored",
    )
    verify = jobs.add_parser(
        "verify", help="check the stored tables; exit code 1 if a check fails or nothing is stored"
    )
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    gaps = jobs.add_parser("gaps", help="list records that were lost, and the missing hours of each market")
    gaps.add_argument("--json", action="store_true", help="print the list as JSON")
    return parser


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    """Log retries of exchange requests. Code that waits for HDFS or Kafka logs that once by itself."""
    if isinstance(details.caused_by, SourceError):
        # 0: the client itself waits, and its error states for how long.
        pause = f"; retrying in {details.wait_for:.1f} s" if details.wait_for else ""
        _log.warning("attempt %d failed: %s%s", details.retry_num, details.caused_by, pause)


def _run(options: argparse.Namespace, settings: Settings, stop: StopFlag) -> int:
    from batch.jobs.retry import until_done
    from batch.jobs.run import check_end, reporting, run_backfill, run_gaps, run_hourly, run_raw, run_verify

    start_ms, end_ms = time_range(getattr(options, "start", None), getattr(options, "end", None))
    if options.job == "raw":
        return run_raw(
            settings,
            stop,
            once=options.once,
            hourly=not options.no_hourly,
            from_earliest=options.from_earliest_available,
        )
    if options.job == "hourly":
        return run_hourly(settings, stop, from_ms=start_ms, to_ms=end_ms)
    if options.job == "backfill":
        if options.symbols is not None:
            settings = _with_markets(settings, options.symbols)
        run = partial(
            run_backfill,
            settings,
            stop,
            hours=options.hours,
            minutes=options.minutes,
            to_ms=end_ms,
            archive=options.archive,
            replace=options.replace,
        )
        if end_ms is not None:
            check_end(end_ms, SystemClock())  # before any connection; the job compares with the exchange's clock
        with reporting(settings, stop, ProductPart.BACKFILL) as (status,):
            status.running()
            code = until_done("backfill", run, stop, failed=status.failing) if options.retry else run()
            if code:
                status.end(Activity.FAILING, "not all files were read; see its log")
            elif not stop.is_set():
                status.end(Activity.DONE)
            return code
    if options.job == "gaps":
        return run_gaps(settings, as_json=options.json)
    return run_verify(settings, as_json=options.json)


def _with_markets(settings: Settings, symbols: str) -> Settings:
    """Return the settings with the markets of `--symbols`; those of the forecasts need not be among them."""
    forecasting = {**settings.forecasting.model_dump(), "symbols": ()}
    try:
        return settings.model_validate({**settings.model_dump(), "markets": symbols, "forecasting": forecasting})
    except ValidationError as error:
        reasons = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors(include_input=False))
        raise ConfigurationError(f"--symbols: {symbols!r}: {reasons}") from error


def main(arguments: list[str] | None = None) -> int:
    """Run one job and return its exit code."""
    options = _parser().parse_args(arguments)
    stop = StopFlag(kill_jvm)
    try:
        settings = load_settings()
        set_up_logging(settings.log_level)
        # A job that repeats itself reports each change of its state, not each request.
        stamina.instrumentation.set_on_retry_hooks([] if getattr(options, "retry", False) else [_log_retry])
        with stop.signals():
            return _run(options, settings, stop)
    except (Py4JError, PySparkException):
        if not stop.is_set():
            raise
        return 0  # the job was cancelled by a signal
    except BitcoinDataError as error:
        if stop.is_set():
            return 0
        write_error(sys.stderr, f"batch {options.job}: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
