"""Every option of every command line that takes a number refuses hostile values with one line and exit code 2."""

import argparse
from collections.abc import Iterator

import click
import pytest

from batch.__main__ import _parser as batch_parser
from devstack.__main__ import _parser as devstack_parser
from forecasting.__main__ import _parser as forecasting_parser
from forecasting.__main__ import main as forecasting_main
from simulator.cli import _parser as simulator_parser
from streams.commands import NAMES, register
from streams.commands.command import StreamsCommand

HOSTILE = ("", " ", "x", "-1e9", "nan", "inf", "-inf", "1e999", "9" * 30, "9" * 5_000, "\u0661", "1_0", "0x10", "1;2")
PARSERS = {
    "batch": batch_parser,
    "devstack": devstack_parser,
    "forecasting": forecasting_parser,
    "simulator": simulator_parser,
}


def typed(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the words of the subcommand and the option of each argument with a type of its own."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from typed(inner, (*words, name))
        elif action.type is not None and getattr(action.type, "__name__", "") != "Path":
            yield words, action.option_strings[-1]


TYPED = [(name, *found) for name, build in PARSERS.items() for found in typed(build())]


def test_the_walk_finds_the_options() -> None:
    found = {(name, *words, option) for name, words, option in TYPED}
    assert {
        ("batch", "backfill", "--hours"),
        ("batch", "backfill", "--minutes"),
        ("devstack", "logs", "--lines"),
        ("simulator", "--port"),
        ("simulator", "--seed"),
        ("simulator", "--speed"),
    } <= found


@pytest.mark.parametrize(("name", "words", "option"), TYPED, ids=str)
@pytest.mark.parametrize("value", HOSTILE, ids=lambda text: ascii(text[:8]))
def test_a_hostile_number_is_one_line_with_exit_code_2(
    name: str, words: tuple[str, ...], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        PARSERS[name]().parse_args([*words, f"{option}={value}"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"argument {option}: " in err
    assert len(err) < 500


def stream_options() -> Iterator[tuple[str, click.Parameter]]:
    register()
    commands = {one.__name__.replace("_", "-"): one for one in StreamsCommand.__subclasses__()}
    assert set(commands) == set(NAMES)
    for name, command in commands.items():
        built: click.Command = click.command()(lambda: None)
        for add in command.options or ():
            add(built)
        yield from ((name, one) for one in built.params)


OPTIONS = [*stream_options()]


def test_no_stream_command_uses_an_unbounded_number() -> None:
    kinds = (click.types.IntParamType, click.types.FloatParamType)
    assert [(name, one.name) for name, one in OPTIONS if isinstance(one.type, kinds)] == []


@pytest.mark.parametrize(("name", "one"), [found for found in OPTIONS if found[1].type.name == "integer"], ids=str)
@pytest.mark.parametrize("value", [*HOSTILE, "0", "-1"], ids=lambda text: ascii(text[:8]))
def test_a_hostile_count_of_a_stream_command_is_refused(name: str, one: click.Parameter, value: str) -> None:
    with pytest.raises(click.BadParameter, match="expected a whole number from 1 to"):
        one.type.convert(value, one, None)


@pytest.mark.parametrize(
    ("name", "one"), [found for found in OPTIONS if isinstance(found[1].type, click.Choice)], ids=str
)
def test_an_unknown_choice_of_a_stream_command_is_refused_with_all_known_ones(name: str, one: click.Parameter) -> None:
    assert isinstance(one.type, click.Choice)
    with pytest.raises(click.BadParameter) as refused:
        one.type.convert("foo", one, None)
    assert all(str(known) in refused.value.message for known in one.type.choices)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("train", "--symbol", "DOGE"), "--symbol: 'DOGE': expected one of BTC-USD"),
        (("predict", "--symbol", ""), "--symbol: '': expected one of BTC-USD"),
        (("serve", "--symbol", "BTC-USD", "--symbol", "x"), "--symbol: 'x': expected one of BTC-USD"),
        (("report", "--symbol", "nan"), "--symbol: 'nan': expected one of BTC-USD"),
        (("report", "--models", "har,gru"), "--models: 'gru': expected one of "),
        (("report", "--models", ""), "--models: '': expected one of "),
        (("train", "--model", "gru"), "argument --model: invalid choice: 'gru' (choose from 'lstm-quantile', 'lstm-pl"),
    ],
    ids=str,
)
def test_a_wrong_market_or_model_of_forecasting_is_refused_before_hdfs_is_waited_for(
    words: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("forecasting.commands.WebHdfs", None)
    try:
        code: object = forecasting_main(words)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"forecasting {words[0]}: {line}" in err
