"""The model card as a web page: readable tables, and nothing of a title or class name becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from labline.markdown import cell
from labline.model_card_page import model_card_page

CARD = """# Model card: steel

## Intended use
Defects on **hot-rolled** strip.

## Metrics
| metric | value |
| --- | --- |
| accuracy | 0.98 |
"""


class Elements(HTMLParser):
    """Collects the tags of a page, and its text by the tag around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.tags[-1] if self.tags else "", []).append(data)


def test_sections_become_headings_and_tables_become_tables() -> None:
    page = Elements(model_card_page(CARD))
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == 2
    assert page.tags.count("tr") == 2
    assert page.text["title"][0] == "Model card: steel"
    assert page.text["strong"][0] == "hot-rolled"


def test_nothing_is_fetched_from_anywhere() -> None:
    page = model_card_page(CARD.replace("strip.", "strip. ![logo](https://example.org/logo.png)"))
    assert "default-src 'none'" in page
    assert not {"img", "script", "link", "iframe"} & set(Elements(page).tags)


def test_markup_in_a_title_is_shown_as_it_was_written() -> None:
    page = model_card_page('# Model card: <script>alert("steel")</script>\n\n## Data\n<img src=x onerror=alert(1)>\n')
    assert "&lt;script&gt;" in page
    assert not {"script", "img"} & set(Elements(page).tags)


@given(st.text())
def test_no_class_name_can_add_an_element(label: str) -> None:
    plain = model_card_page(CARD.replace("accuracy", "crack"))
    named = model_card_page(CARD.replace("accuracy", cell(f"<b>{label}")))
    markdown_only = {"a", "em", "strong", "code", "br"}
    assert set(Elements(named).tags) - set(Elements(plain).tags) <= markdown_only
