"""`python -m streams.views`: print docs/openapi.json."""

import json
import sys

from streams.views.openapi import document


def openapi_json() -> str:
    """Return the text of docs/openapi.json: the API of a worker that requires a token."""
    return json.dumps(document(with_token=True), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_json())
