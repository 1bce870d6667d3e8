"""The one place where Keras is imported: it fixes the back end (JAX) before Keras looks for one.

Model code uses `keras.ops` alone, so another back end is a matter of `KERAS_BACKEND`.
"""

import importlib
import logging
import os
from types import ModuleType

DEFAULT_BACKEND = "jax"


def load_keras() -> ModuleType:
    """Keras on its back end; the first call takes seconds."""
    # Keras can be told its back end only this way, and only before its import.
    os.environ.setdefault("KERAS_BACKEND", DEFAULT_BACKEND)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.getLogger("jax").setLevel(logging.WARNING)
    return importlib.import_module("keras")
