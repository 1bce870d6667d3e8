"""Import of Keras with its back end: JAX, unless `KERAS_BACKEND` names another one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

from config.paths import cache_dir

DEFAULT_BACKEND = "jax"
_UNUSED = ("sklearn", "matplotlib", "pandas")


@contextmanager
def _hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Hide optional packages that Keras imports for parts not used here; they take a third of its import time."""
    modules: dict[str, Any] = sys.modules  # None marks a module as not importable
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        modules[name] = None
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def load_keras() -> ModuleType:
    """Return Keras; the first call imports it, which takes seconds."""
    if "keras" not in sys.modules:
        # Keras and JAX read these variables once, when they are imported.
        os.environ.setdefault("KERAS_BACKEND", DEFAULT_BACKEND)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        # Share compiled code between trainings and restarts of the predictor.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "jax"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        with _hidden(_UNUSED):
            import keras
        return cast("ModuleType", keras)
    return sys.modules["keras"]
