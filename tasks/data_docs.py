"""Great Expectations' Data Docs as one page that needs neither network nor neighbours.

GX's site builder copies 4 MB of assets and leaves the page's looks to eight servers of others; an
MLflow artifact has neither folder nor, often, a network. So the page GX renders is kept, its outside
references are dropped and a short style takes their place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

OUTSIDE = re.compile(r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>", re.DOTALL)
STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }
nav, footer, .sticky, .modal, [data-toggle=collapse], .alert a { display: none; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #ddd; padding: .4rem .6rem; text-align: left; vertical-align: top; }
h4, h5, h6 { margin: .6rem 0; font-size: 1.1rem; }
.alert { background: #f2f4f7; padding: .2rem .8rem; border-radius: 4px; }
.fa-check-circle::before, .fa-check::before { content: "✓"; color: #1a7f37; }
.fa-times::before { content: "✗"; color: #c62828; }
.fa-exclamation-triangle::before { content: "!"; color: #b26a00; }
.badge { background: #e8eaf0; border-radius: 3px; padding: 0 .3rem; }
</style></head>"""


def write_data_docs(result: ExpectationSuiteValidationResult, directory: Path) -> Path:
    """Write what a suite found to `directory`/index.html and return that path.

    The values of `result` must be plain Python: GX 1.24 cannot render NumPy 2 scalars.
    """
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    content = ValidationResultsPageRenderer().render(result)
    page: str = DefaultJinjaPageView().render(content)  # type: ignore[no-untyped-call]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "index.html"
    path.write_text(OUTSIDE.sub("", page).replace("</head>", STYLE, 1), encoding="utf-8")
    return path
