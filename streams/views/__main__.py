"""`python -m streams.views`: docs/openapi.json anew."""

import json
import sys

from streams.views.openapi import document


def openapi_json() -> str:
    """The text of docs/openapi.json: the API of a worker that asks for a token."""
    return json.dumps(document(with_token=True), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(openapi_json())
