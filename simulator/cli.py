"""Command line of the simulated exchange: `python -m devstack exchange --data DIR --start TIME --speed N`."""

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from marketdata.arguments import MAX_PORT, MAX_SEED, Parser, number, time_range, whole_number
from marketdata.errors import BitcoinDataError, InvalidValueError
from marketdata.log_format import LineFormatter
from marketdata.printable import write_error, write_line
from marketdata.times import to_rfc3339
from simulator.clock import ReplayClock, StateFile
from simulator.history import MarketHistory
from simulator.listing import HOSTS, Further
from simulator.recording import Recording
from simulator.server import BINANCE, COINGECKO, CONTROL, serve
from simulator.state import ExchangeState

DEFAULT_SEED = 20240805
MAX_SPEED = 10_000

logger = logging.getLogger(__name__)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="devstack exchange",
        description="Run a local simulated exchange that speaks the Binance and CoinGecko APIs from stored candles.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with klines_1m/ and klines_1h/")
    parser.add_argument("--start", metavar="TIME", help="exchange time at start, RFC 3339 (default: the first candle)")
    parser.add_argument(
        "--speed",
        type=number(0, MAX_SPEED),
        default=1.0,
        metavar="N",
        help="exchange seconds per real second (default 1)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=whole_number(0, MAX_PORT), default=0, help="port to listen on; 0 selects a free one (default)"
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=DEFAULT_SEED,
        help=f"seed of all derived data (default {DEFAULT_SEED})",
    )
    parser.add_argument(
        "--markets",
        nargs="+",
        default=[],
        metavar="MARKET",
        help="further pairs, BASE-QUOTE or BASE-QUOTE@PRICE, derived from stored ones",
    )
    parser.add_argument(
        "--coin-ids", nargs="+", default=[], metavar="BASE=ID", help="CoinGecko's ids that differ from the usual ones"
    )
    parser.add_argument(
        "--rules", choices=sorted(HOSTS), default="com", help="pairs and limits of binance.com (default) or Binance.US"
    )
    parser.add_argument(
        "--state-file",
        type=Path,
        metavar="FILE",
        help="file that stores the exchange time; a restart continues from it",
    )
    parser.add_argument(
        "--ws-recording",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="recorded WebSocket streams to replay (gzip)",
    )
    return parser


def _build(arguments: argparse.Namespace, state_file: StateFile | None) -> ExchangeState:
    further = [Further.parse(text) for text in arguments.markets]
    history = MarketHistory.load(arguments.data, arguments.seed, further, HOSTS[arguments.rules])
    start_ms, _ = time_range(arguments.start, None, "--start")
    start_ms = history.start_ms if start_ms is None else start_ms
    stored_ms = None if state_file is None else state_file.read_ms()
    if stored_ms is not None:
        logger.info("continuing from %s, stored in %s", to_rfc3339(stored_ms), arguments.state_file)
        start_ms = stored_ms
    recording = Recording(arguments.ws_recording) if arguments.ws_recording else None
    clock = ReplayClock(start_ms, history.start_ms, history.end_ms, arguments.speed)
    return ExchangeState(history, clock, recording, dict(_coin_id(text) for text in arguments.coin_ids))


def _coin_id(text: str) -> tuple[str, str]:
    base, _, coin_id = text.partition("=")
    if not base or not coin_id:
        raise InvalidValueError("coin-ids", text, "BASE=ID, such as W=wormhole")
    return base.upper(), coin_id


def _print_ready(state: ExchangeState, host: str, port: int) -> None:
    address = f"http://{host}:{port}"
    now_ms = state.clock.now_ms()
    ready = {
        "address": address,
        "binance": address + BINANCE,
        "binance_ws": f"ws://{host}:{port}{BINANCE}",
        "coingecko": f"{address}{COINGECKO}/api/v3",
        "control": address + CONTROL,
        "now_ms": now_ms,
        "now": to_rfc3339(now_ms),
        "speed": state.clock.speed,
        "data_start_ms": state.clock.data_start_ms,
        "end_ms": state.clock.end_ms,
        "symbols": state.market.symbols,
    }
    write_line(sys.stdout, json.dumps(ready))


async def _run(state: ExchangeState, host: str, port: int, state_file: StateFile | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    await serve(state, host, port, state_file=state_file, ready=lambda *where: _print_ready(state, *where), stop=stop)


def main(argv: Sequence[str]) -> int:
    """Run the exchange until SIGTERM or SIGINT; return the exit code.

    When ready, it prints one JSON line to standard output: {"address": "http://127.0.0.1:PORT", …}. Logs go to standard
    error.
    """
    arguments = _parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    state_file = None if arguments.state_file is None else StateFile(arguments.state_file)
    try:
        state = _build(arguments, state_file)
        asyncio.run(_run(state, arguments.host, arguments.port, state_file))
    except BitcoinDataError as error:
        write_error(sys.stderr, f"devstack exchange: {error}")
        return error.exit_code
    except OSError as error:
        where = f"{arguments.host}:{arguments.port}"
        write_line(sys.stderr, f"devstack exchange: cannot listen on {where} ({error.strerror}); choose another --port")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
