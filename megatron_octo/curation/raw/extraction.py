"""HTML to text: the page's main content, with its formulas as LaTeX.

datatrove runs extractors in a process of their own with a limit on the time on the clock (BaseExtractor, 0.10.1): what is extracted
would depend on what else the machine does, and a page that takes too long leaves no trace. Here the size of a page is what is limited.
"""

from typing import Any

import trafilatura
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from megatron_octo.curation.config import Extractor
from megatron_octo.curation.documents import Rejects
from megatron_octo.curation.parts import OURS
from megatron_octo.curation.raw import formulas
from megatron_octo.curation.raw.reading import Page

#: 26 kB is a usual page [notes: Rust's documentation]; what is larger than this is mostly data, and slow.
MAX_CHARACTERS = 5_000_000
#: Of a page that is dropped, for people to read.
KEPT_CHARACTERS = 2_000


class Extract(BaseFilter):  # type: ignore[misc]
    """Pages become text; documents that are text already pass."""

    name = "extraction"
    type = OURS

    def __init__(self, extractor: Extractor, exclusion_writer: Rejects | None = None) -> None:
        super().__init__(exclusion_writer)
        self.extractor = extractor

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if not isinstance(doc, Page):
            return True
        html, doc.text = doc.text, doc.text[:KEPT_CHARACTERS]
        if len(html) > MAX_CHARACTERS:
            return False, "too_large"
        text = text_of(html, self.extractor)
        if not text:
            return False, "no_text"
        doc.text = text
        return True


def text_of(html: str, extractor: Extractor) -> str:
    """The main content of a page; empty where there is none."""
    tree: Any = HTMLTree.parse(html)
    formulas.to_latex(html, tree)
    if extractor is Extractor.TRAFILATURA:
        found = trafilatura.extract(str(tree.document.html), fast=True, include_comments=False, deduplicate=False)
        return str(found or "").strip()
    # Alternative texts of pictures that are no formulas are seldom sentences.
    return str(extract_plain_text(tree, main_content=True, alt_texts=False)).strip()
