"""Every program: help, unknown options and refused settings are plain text with the documented exit code."""

import os
import runpy
import sys
import warnings

import pytest

from streams.application import app_from_environment
from tests.support.paths import ROOT

MODULES = (
    ("batch",),
    ("benchmarks",),
    ("config",),
    ("devstack",),
    ("devstack", "exchange"),
    ("devstack.bootstrap",),
    ("devstack.sample",),
    ("forecasting",),
    ("marketdata",),
    ("simulator.cli",),
    ("streams.views",),
    ("tests.fuzz",),
)
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
LOAD_SETTINGS = (
    ("batch", "verify"),
    ("batch", "backfill", "--retry"),
    ("config",),
    ("devstack", "status"),
    ("devstack", "up"),
    ("devstack", "down"),
    ("devstack", "demo"),
    ("forecasting", "serve"),
    ("forecasting", "train"),
    ("streams",),
)


def exit_code(monkeypatch: pytest.MonkeyPatch, module: str, *words: str) -> object:
    """Run `python -m module words` in this process."""
    monkeypatch.setattr(sys, "argv", [module, *words])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, about modules that are imported already
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            return ended.code
    return 0


@pytest.mark.parametrize("words", MODULES, ids=" ".join)
def test_help_is_printed_with_exit_code_0(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, *words, "--help") == 0
    out, err = capsys.readouterr()
    assert out.lower().startswith("usage: ")
    assert err == ""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_its_usage(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the example replaces it
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert f"python examples/{name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", MODULES, ids=" ".join)
def test_an_unknown_option_is_refused_with_exit_code_2(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, *words, "--no-such-option") == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", LOAD_SETTINGS, ids=" ".join)
def test_refused_settings_are_one_line_each_with_exit_code_2(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in [key for key in os.environ if key.startswith("BDI_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("BDI_KAFKA__PARTITIONS", "none")
    monkeypatch.setenv("BDI_STREAMS__WEB_TOKEN", "short")
    if words == ("streams",):  # `faust -A streams COMMAND` builds the application
        with pytest.raises(SystemExit) as ended:
            app_from_environment()
        assert ended.value.code == 2
    else:
        assert exit_code(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    heading, *lines = err.splitlines()
    assert heading.endswith("settings refused:")
    assert [line.strip() for line in lines] == [
        "kafka.partitions: 'none': expected a whole number of at least 1 and of at most 1000",
        "streams.web_token: ***: expected 16 or more of the letters A-Z and a-z, digits and . _ ~ -",
    ]
    assert out == ""
