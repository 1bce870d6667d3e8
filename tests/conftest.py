"""What every test shares: how hypothesis runs, and where temporary files go."""

import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A deadline per example measures the machine, not the code; the same examples on every run make a failure repeatable.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Browsers and programs that a test kills leave files behind: here, where pytest clears up."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield
