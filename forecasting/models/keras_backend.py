"""The one place where Keras is imported: it fixes the back end (JAX) before Keras looks for one.

Model code uses `keras.ops` alone, so another back end is a matter of `KERAS_BACKEND`.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from config.paths import cache_dir

DEFAULT_BACKEND = "jax"
_UNUSED = ("sklearn", "matplotlib", "pandas")


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Packages that Keras imports where it finds them, for parts that are not used here: a third of its import time."""
    modules: dict[str, Any] = sys.modules  # None in it is how Python is told that there is no such module
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        modules[name] = None
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def load_keras() -> ModuleType:
    """Keras on its back end; the first call takes seconds."""
    if "keras" not in sys.modules:
        # Keras and JAX can be told these things only in this way, and only before their import.
        os.environ.setdefault("KERAS_BACKEND", DEFAULT_BACKEND)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        # What was compiled once is found again by the next training and the next start of the predictor.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "jax"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        with _hidden(_UNUSED):
            return importlib.import_module("keras")
    return sys.modules["keras"]
