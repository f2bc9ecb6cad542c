"""The model card as a page of its own, for a browser or MLflow's artifact view."""

from __future__ import annotations

import html

from markdown_it import MarkdownIt

# No script, no font, no picture from anywhere: what a card says, a title or class name included, cannot fetch.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ margin-top: 2rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: left; }}
</style>
</head>
<body>
{body}</body>
</html>
"""


def model_card_page(card: str) -> str:
    """One self-contained HTML page of a card in Markdown (see `model_card`); HTML and pictures in it stay plain text.

    The page's title is the card's first line.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    title = card.strip().partition("\n")[0].lstrip("# ")
    return _PAGE.format(title=html.escape(title), body=markdown.render(card))
