"""What the guide says of the package is so: its warnings, its links, its order."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *DOCS.glob("guide/*.md"), *DOCS.glob("how-to/*.md")]
# of whole strings: what stands between two of them in the source is layout
SOURCE = re.sub(r'"\s*\n\s*f?"', "", "\n".join(p.read_text() for p in ROOT.glob("src/**/*.py")))
WARNINGS = re.findall(r"^\| `([^`]+)` \| ", (DOCS / "guide/training.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("words", WARNINGS)
def test_the_guide_quotes_warnings_that_there_are(words):
    assert words in SOURCE


def test_it_quotes_them_all():
    # one that was recorded is passed on, and no new one
    assert len(WARNINGS) >= len(re.findall(r"warnings\.warn\((?!warning\.message)", SOURCE))


@pytest.mark.parametrize("folder", ["guide", "how-to"])
def test_every_page_is_named_by_the_first_of_its_folder(folder):
    named = set(re.findall(r"\]\(([\w.-]+\.md)\)", (DOCS / folder / "index.md").read_text()))
    assert named == {page.name for page in (DOCS / folder).glob("*.md")} - {"index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)]*)?\)", text):
        there = (page.parent / target) if target else page
        assert there.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)", there.read_text(), re.MULTILINE)
            assert anchor[1:] in map(slug, heads), anchor


def slug(heading: str) -> str:
    """The anchor of a heading, as sites and GitHub make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")
