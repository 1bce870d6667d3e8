"""`python -m config`: the settings that are in force, secrets masked; `--document`: docs/settings.md anew."""

import argparse
import sys

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from config.settings import Settings, load_settings
from marketdata.errors import ConfigurationError

_HEAD = """# Settings

One tree, read once by each program: default < profile (`BDI_PROFILE`: demo, local, live, compose, cluster) < a TOML
file of yours (`BDI_CONFIG`) < environment. `streams.web_port` is `web_port` under `[streams]` in a file, and
`BDI_STREAMS__WEB_PORT` in the environment. Unknown keys are refused. `python -m config` prints what is in force, with
secrets masked. Made from the code by `python -m config --document`.

| setting | default | meaning |
|---|---|---|
"""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value in ({}, ()):
        return "–"
    plain = to_jsonable_python(value)
    return f"`{','.join(map(str, plain)) if isinstance(plain, list) else plain}`"


def document(model: type[BaseModel] = Settings, prefix: str = "") -> str:
    """The Markdown of docs/settings.md, one row a leaf."""
    rows = "" if prefix else _HEAD
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += document(field.annotation, f"{prefix}{name}.")
        else:
            rows += f"| `{prefix}{name}` | {_default(field)} | {field.description} |\n"
    return rows


def main() -> int:
    """Run the command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m config", description="The settings in force.")
    parser.add_argument("--document", action="store_true", help="print docs/settings.md")
    arguments = parser.parse_args()
    try:
        text = document() if arguments.document else load_settings().model_dump_json(indent=2) + "\n"
    except ConfigurationError as error:
        sys.stderr.write(f"config: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
