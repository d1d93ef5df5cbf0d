"""The pages: every link between them leads somewhere, and the index names them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def links(page: Path) -> list[Path]:
    """The files that the page links to."""
    found = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return [(page.parent / link).resolve() for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    assert [link for link in links(page) if not link.is_file()] == []


def test_the_index_and_the_readme_name_every_page() -> None:
    pages = {page for page in PAGES if page.parent.name == "docs"} - {ROOT / "docs/index.md"}
    assert pages <= set(links(ROOT / "docs/index.md"))
    assert pages <= set(links(ROOT / "README.md"))
