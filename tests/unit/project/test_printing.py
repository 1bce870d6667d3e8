"""All output of the programs goes through the writers that make text printable."""

import ast
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

PACKAGES = ("marketdata", "config", "exchanges", "clients", "streams", "batch", "forecasting", "simulator", "devstack")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
WRITERS = {
    "marketdata/printable.py",  # the writers
    "streams/commands/command.py",  # Rich's console: `styled` and `table` make every text printable
    "devstack/progress.py",  # as above, `PlainReporter.line`
    "devstack/bootstrap.py",  # runs before any package is installed; prints its own texts
}


def _is_stream(node: ast.expr) -> bool:
    """Whether the expression is a standard stream, a command's output or a console."""
    return isinstance(node, ast.Attribute | ast.Name) and (
        node.attr if isinstance(node, ast.Attribute) else node.id
    ).lstrip("_") in {"stdout", "stderr", "console", "out", "err"}


def raw_output(tree: ast.AST) -> Iterator[int]:
    """The lines that print without a writer, or format log lines in another way."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="print"):
                yield node.lineno
            case ast.Attribute(attr="write" | "writelines" | "print" | "out" | "log", value=value) if _is_stream(value):
                yield node.lineno
            case ast.Attribute(attr="echo" | "secho", value=ast.Name(id="click")):
                yield node.lineno
            case ast.Attribute(attr="Formatter", value=ast.Name(id="logging")):
                yield node.lineno
            case ast.Attribute(attr="basicConfig") if "handlers" not in {word.arg for word in node.keywords}:
                yield node.lineno
            case _:
                pass


def test_output_goes_through_the_writers() -> None:
    names = {path.relative_to(ROOT).as_posix(): path for path in FILES}
    assert names.keys() >= WRITERS
    found = {
        name: lines
        for name, path in names.items()
        if name not in WRITERS and (lines := list(raw_output(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "sys.stderr.write(text)",
        "self.stdout.write(text)",
        "self._console.print(text)",
        "click.echo(text)",
        "logging.Formatter('%(message)s')",
        "logging.basicConfig(level='INFO')",
    ],
)
def test_raw_output_is_found(code: str) -> None:
    assert list(raw_output(ast.parse(code))) == [1]
