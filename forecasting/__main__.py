"""Command line `python -m forecasting`: train, predict, serve, report. Heavy packages are imported when needed."""

import argparse
import sys
from collections.abc import Sequence

from marketdata.arguments import Parser
from marketdata.errors import BitcoinDataError
from marketdata.printable import write_error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m forecasting", description="Forecast the next hour's average price from hourly rows on HDFS."
    )
    parser.add_argument("--profile", help="settings profile (default: BDI_PROFILE, else local)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train, check and publish a version; promote it if the rules allow")
    train.add_argument("--symbol", action="append", help="market; repeatable (default: forecasting.symbols)")
    train.add_argument("--model", choices=("lstm-quantile", "lstm-plain"), help="default: forecasting.model")
    predict = commands.add_parser(
        "predict", help="print forecasts of the hour after the newest closed one, as JSON lines"
    )
    predict.add_argument("--symbol", action="append", help="market; repeatable (default: forecasting.symbols)")
    serve = commands.add_parser("serve", help="predict each next hour, score and retrain, until stopped")
    serve.add_argument("--symbol", action="append", help="market; repeatable (default: forecasting.symbols)")
    report = commands.add_parser("report", help="compare models by walk-forward; write Markdown, JSON and a plot")
    report.add_argument("--symbol", help="market (default: the first of forecasting.symbols)")
    report.add_argument("--models", help="comma-separated model names (default: all)")
    report.add_argument("--quick", action="store_true", help="few refits and epochs, one seed")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a known error is printed as one line, with exit code 1."""
    args = _parser().parse_args(argv)
    from clients.logging_setup import set_up_logging
    from config import load_settings
    from forecasting import commands

    try:
        settings = load_settings(args.profile)
        set_up_logging(settings.log_level)
        return commands.run(args, settings)
    except BitcoinDataError as error:
        write_error(sys.stderr, f"forecasting {args.command}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
