"""Every link in the docs leads somewhere, and every document can be reached from the README."""

import pytest
from document import ROOT, documents, headings_of, links_of


def broken_links(document, links):
    """Relative targets that do not exist, or name a heading that is not there."""
    for link in links:
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in headings_of(target)):
            yield link


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    assert not list(broken_links(document, links_of(document)))


def test_a_planted_broken_link_is_found():
    readme = ROOT / "README.md"
    assert list(broken_links(readme, ["gone.md", "README.md#no-such-heading", "docs/"])) == [
        "gone.md",
        "README.md#no-such-heading",
    ]


def test_every_document_is_reachable_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop()
        if document in reached or document.suffix != ".md":
            continue
        reached.add(document)
        targets = [
            (document.parent / link.partition("#")[0]).resolve() for link in links_of(document) if "://" not in link
        ]
        waiting += [target for target in targets if target.is_file()]
    left_out = {path for path in documents() if path.is_relative_to(ROOT / "docs")} - reached
    assert not {str(path.relative_to(ROOT)) for path in left_out}
