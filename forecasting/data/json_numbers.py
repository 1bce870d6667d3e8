"""Numbers as JSON may hold them: what is not finite is null."""

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """The same tree with None in the place of every number that is not finite."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(value: Any) -> bytes:
    """Canonical: sorted keys, so that equal content has equal bytes."""
    return json.dumps(finite(value), sort_keys=True, indent=1, allow_nan=False).encode()
