"""Folders that tests read: the project's root, its documents, and the optional shared market data."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SHARED_DATA = ROOT.parent / "shared" / "data"
