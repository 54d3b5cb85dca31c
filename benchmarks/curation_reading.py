"""How fast pages become text, and texts are judged: extraction, language, quality, each on one core, side by side in one run.

    python benchmarks/curation_reading.py [--pages DIRECTORY]

Pages are pydoc's HTML of the standard library's modules, cut into one page per class and function group, every third with formulas as
MathML, KaTeX and MathJax write them; or with --pages all HTML files below a directory. Prints Markdown; exit code 1 where a bar is not met.
"""

import argparse
import pydoc
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import fasttext
import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from megatron_octo import units
from megatron_octo.curation.config import Extractor, Quality
from megatron_octo.curation.languages import Identifier, small_model
from megatron_octo.curation.raw.extraction import text_of
from megatron_octo.curation.raw.quality import fault

#: Bars: quality rules in bytes a second and core; the extractors' ratio (DCLM reports 8).
LEAST_QUALITY_RATE, LEAST_RATIO = 10 * units.M, 4.0
#: Of each measurement, so that it says something; what is fast goes over the texts several times.
LEAST_SECONDS = 3.0
#: A usual document of MegaMath-Web, in characters.
DOCUMENT_CHARACTERS = 2_600
PAGE_ITEMS = 8
MODULES = (
    "argparse", "ast", "asyncio", "collections", "configparser", "csv", "ctypes", "datetime", "decimal", "email.message", "enum",
    "fractions", "functools", "gzip", "heapq", "http.client", "inspect", "io", "itertools", "json", "logging", "math", "mailbox",
    "multiprocessing", "os", "pathlib", "pickle", "random", "re", "shutil", "socket", "sqlite3", "ssl", "statistics", "string",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "turtle", "typing", "unittest", "urllib.request", "uuid", "zipfile",
)  # fmt: skip
FORMULAS = """
<p>By <span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>x</mi></mrow><annotation encoding="application/x-tex">
\\sum_{i=1}^n x_i</annotation></semantics></math></span><span class="katex-html">x</span></span> and <math><mfrac><mrow><mi>a</mi><mo>+</mo>
<mi>b</mi></mrow><msqrt><mn>2</mn></msqrt></mfrac></math> and <script type="math/tex">e^{i\\pi}=-1</script> about 10<sup>6</sup>.</p>
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, help="HTML files below this directory instead of pydoc's")
    parser.add_argument("--most", type=int, default=1_000, help="pages")
    arguments = parser.parse_args()
    pages = read(arguments.pages, arguments.most) if arguments.pages else list(made())[: arguments.most]
    texts = documents(pages)
    print(f"{len(pages):,} pages, {units.bytes_(sum(map(len, pages)) / len(pages))} on average; one core, CPU time\n")
    ratio = show_extraction(pages)
    quality = show_judging(texts)
    met = ratio >= LEAST_RATIO and quality >= LEAST_QUALITY_RATE
    print(
        f"\nresiliparse is {ratio:.1f} times as fast as trafilatura (bar: {LEAST_RATIO:g}); bars {'met' if met else 'NOT met'}"
    )
    return 0 if met else 1


def read(directory: Path, most: int) -> list[str]:
    """Evenly from all files below."""
    files = sorted(directory.rglob("*.html"))
    return [file.read_text(errors="replace") for file in files[:: max(1, len(files) // most)]]


def made() -> Sequence[str]:
    """pydoc writes a module as one page of some 100 kB; here a page has a few of its entries."""
    pages = []
    for name in MODULES:
        head, *entries = pydoc.HTMLDoc().page(name, pydoc.HTMLDoc().document(pydoc.locate(name))).split("<dl>")
        for start in range(0, len(entries), PAGE_ITEMS):
            formulas = FORMULAS * 3 if len(pages) % 3 == 0 else ""
            pages.append(
                "".join([head[:4_000], formulas, *("<dl>" + entry for entry in entries[start : start + PAGE_ITEMS])])
            )
    return pages


def documents(pages: Sequence[str]) -> list[str]:
    """Texts of a usual length out of the pages."""
    text = "\n".join(text_of(page, Extractor.RESILIPARSE) for page in pages)
    return [text[start : start + DOCUMENT_CHARACTERS] for start in range(0, len(text), DOCUMENT_CHARACTERS)]


def seconds_per_item(work: Callable[[str], object], items: Sequence[str]) -> float:
    """CPU time of this process, over all items as often as it takes."""
    work(items[0])
    started, rounds = time.process_time(), 0
    while (spent := time.process_time() - started) < LEAST_SECONDS:
        for item in items:
            work(item)
        rounds += 1
    return spent / (rounds * len(items))


def show(name: str, seconds: float, items: Sequence[str]) -> None:
    mean = sum(len(item.encode()) for item in items) / len(items)
    print(f"| {name} | {1 / seconds:,.0f} | {mean / seconds / units.M:.1f} |")


def show_extraction(pages: Sequence[str]) -> float:
    """Prints the table; gives the ratio of the two extractors as used."""
    print("| HTML to text | pages/s | MB/s |\n|---|--:|--:|")
    ways: dict[str, Callable[[str], object]] = {
        "resiliparse alone": lambda page: extract_plain_text(HTMLTree.parse(page), main_content=True, alt_texts=False),
        "resiliparse as used, formulas kept": lambda page: text_of(page, Extractor.RESILIPARSE),
        "trafilatura alone": lambda page: trafilatura.extract(page, fast=True, include_comments=False),
        "trafilatura as used, formulas kept": lambda page: text_of(page, Extractor.TRAFILATURA),
    }
    times = {name: seconds_per_item(way, pages) for name, way in ways.items()}
    for name, seconds in times.items():
        show(name, seconds, pages)
    return times["trafilatura as used, formulas kept"] / times["resiliparse as used, formulas kept"]


def show_judging(texts: Sequence[str]) -> float:
    """Prints the table; gives the bytes a second of the quality rules."""
    print(
        f"\n| {units.counted(len(texts), 'text')} of {DOCUMENT_CHARACTERS:,} characters | documents/s | MB/s |\n|---|--:|--:|"
    )
    identifier, model = Identifier(None), fasttext.load_model(str(small_model()))
    whole = seconds_per_item(lambda text: model.f.predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict"), texts)
    show("language, the model on whole texts", whole, texts)
    show("language as used", seconds_per_item(identifier.identify, texts), texts)
    rules = Quality()
    quality = seconds_per_item(lambda text: fault(text, rules), texts)
    show("quality", quality, texts)
    return sum(len(text.encode()) for text in texts) / len(texts) / quality


if __name__ == "__main__":
    sys.exit(main())
