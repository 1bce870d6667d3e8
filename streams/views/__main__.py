"""`python -m streams.views`: print docs/openapi.json."""

import json
import sys

from marketdata.arguments import Parser
from marketdata.printable import write_lines
from streams.views.openapi import document


def openapi_json() -> str:
    """Return the text of docs/openapi.json: the API of a worker that requires a token."""
    return json.dumps(document(with_token=True), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Print the document; `--help` prints the usage."""
    Parser(prog="python -m streams.views", description="Print docs/openapi.json.").parse_args()
    write_lines(sys.stdout, openapi_json().rstrip("\n"))


if __name__ == "__main__":
    main()
