"""Modules that run before packages are installed, or in a bare interpreter, import the standard library only."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.parametrize("module", ["clients.process", "devstack.bootstrap", "devstack.java"])
def test_it_imports_without_site_packages(module: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
