"""What every test shares: how hypothesis runs."""

from hypothesis import settings

# A deadline per example measures the machine, not the code; the same examples on every run make a failure repeatable.
settings.register_profile("project", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("project")
