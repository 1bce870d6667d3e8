"""Links in the documents lead to files and headings that exist, in the repository and on the site."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import DOCS, ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), ROOT / "devstack" / "sample" / "README.md"]


def prose(path: Path) -> str:
    """Return a document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(path), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def broken_links(document: Path, root: Path = ROOT) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", link):
            continue  # another site; tests use no network
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.is_relative_to(root) or not target.exists():
            broken.append(f"{link}: no such file")
        elif target.is_dir():
            broken.append(f"{link}: a folder has no page on the site, expected a file")
        elif anchor and anchor not in anchors(target):
            broken.append(f"{link}: no such heading")
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_internal_links_lead_to_files_and_headings(document: Path) -> None:
    assert broken_links(document) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.md").write_text("# A `name` & more\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    document = tmp_path / "document.md"
    document.write_text(
        "# Here\n[a](other.md#a-name--more) [b](#here) [c](other.md#twice-1) [d](https://example.org/none)\n"
        "[e](gone.md) [f](folder/) [g](other.md#no-heading) [h](../outside.md) [i](#there)\n"
    )
    broken = [line.partition(":")[0] for line in broken_links(document, tmp_path)]
    assert broken == ["gone.md", "folder/", "other.md#no-heading", "../outside.md", "#there"]
