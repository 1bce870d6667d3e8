"""`python -m devstack`: the local stack's command line. `--help` lists the commands."""

import argparse
import asyncio
import json
import os
import signal
import sys

from config import load_settings
from config.paths import PRIVATE_UMASK, jars_dir
from devstack.audit import DATABASE, audit
from devstack.jars import fetch_jars
from devstack.stack import PARTS
from devstack.status import LOGS, collect_status
from devstack.status import PARTS as STATUS_PARTS
from devstack.terminal import print_error, print_line
from marketdata.arguments import Parser, whole_number
from marketdata.errors import BitcoinDataError, ConfigurationError

_DEMOS = ("demo", "live")
_MOST_LINES = 10_000


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m devstack", description="Run the local stack: Kafka, HDFS and the simulated exchange."
    )
    parser.add_argument("--profile", help="settings profile (default: $BDI_PROFILE, or local)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the stack and wait until it is healthy")
    up.add_argument("--without", action="append", default=[], choices=PARTS, help="do not start this part (repeatable)")
    up.add_argument("--foreground", action="store_true", help="run in the foreground; Ctrl-C stops all parts")
    up.add_argument("--fail-fast", action="store_true", help="with --foreground: exit with code 1 when a part exits")
    commands.add_parser("down", help="stop the stack or the demo, with all its processes")
    status = commands.add_parser(
        "status", help="print address and health of each part; exit code 1 if one is unhealthy"
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument(
        "--part", choices=tuple(STATUS_PARTS), help="check this part only (for container health checks)"
    )
    logs = commands.add_parser("logs", help="print the last lines of the logs")
    logs.add_argument(
        "part",
        nargs="?",
        choices=[str(name) for name in LOGS],
        metavar="PART",
        help=f"of this part only: {', '.join(LOGS)}",
    )
    logs.add_argument(
        "--lines",
        type=whole_number(1, _MOST_LINES),
        default=20,
        metavar="N",
        help=f"lines of each log, up to {_MOST_LINES} (default: 20)",
    )
    commands.add_parser("jars", help="download the pinned jars into the cache")
    audited = commands.add_parser(
        "audit",
        help="look up known vulnerabilities of Python packages and jars; exit code 1: some found, 3: nothing checked",
    )
    audited.add_argument("--database", default=DATABASE, metavar="URL", help=f"OSV's API (default: {DATABASE})")
    commands.add_parser("env", help="print the shell command that sets JAVA_HOME")
    commands.add_parser(
        "exchange", help="run the simulated exchange (exchange --help lists its options)", add_help=False
    )
    demo = commands.add_parser("demo", help="run the whole product until Ctrl-C")
    demo.add_argument("--profile", dest="demo_profile", choices=_DEMOS, help="default: demo")
    return parser


def _status(profile: str | None, part: str | None, as_json: bool) -> int:
    health = asyncio.run(collect_status(load_settings(profile), part=part))
    if as_json:
        print_line(json.dumps(health, indent=1))
    else:
        for name, found in health.items():
            pid = f"pid {found['pid']}" if found["pid"] is not None else ""
            state = found["detail"] or "healthy"
            print_line(f"{name:10} {found['address']:32} {state} {pid}".rstrip())
    return 0 if all(found["healthy"] for found in health.values()) else 1


def _run(arguments: argparse.Namespace) -> int:
    from devstack import supervisor

    if arguments.command == "demo":
        from devstack.demo import run_demo

        profile = arguments.demo_profile or arguments.profile or _DEMOS[0]
        if profile not in _DEMOS:
            raise ConfigurationError(f"--profile: {profile!r}: expected one of {', '.join(_DEMOS)}")
        return run_demo(load_settings(profile))
    settings = load_settings(arguments.profile)
    match arguments.command:
        case "up" if arguments.foreground:
            without = frozenset(arguments.without)
            supervisor.check_all(settings, without)
            supervisor.log_to_stdout(settings.devstack.state_dir)
            return asyncio.run(supervisor.supervise(settings, without, print_line, fail_fast=arguments.fail_fast))
        case "up":
            supervisor.up(settings, frozenset(arguments.without))
        case "down":
            supervisor.down(settings)
        case "logs":
            supervisor.logs(settings, None if arguments.part is None else LOGS[arguments.part], arguments.lines)
        case "jars":
            folder = jars_dir(settings)
            fetched = fetch_jars(folder, supervisor.require_java(), print_line, settings.devstack.ivy_settings)
            print_line(f"jars: {fetched} fetched, all checksums match in {folder}")
        case "audit":
            return audit(jars_dir(settings), print_line, arguments.database.rstrip("/"))
        case "env":
            print_line(f"export JAVA_HOME='{supervisor.require_java().home}'")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["exchange"]:
            from simulator.cli import main as exchange

            return int(exchange(words[1:]))
        arguments = _parser().parse_args(words)
        if arguments.command == "status":
            return _status(arguments.profile, arguments.part, arguments.json)
        return _run(arguments)
    except BitcoinDataError as error:
        print_error(f"devstack: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _end(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    os.umask(PRIVATE_UMASK)  # state and logs
    signal.signal(signal.SIGTERM, _end)  # so that `up` stops what it has started
    sys.exit(main())
