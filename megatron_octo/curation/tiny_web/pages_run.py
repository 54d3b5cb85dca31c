"""Write the tiny web: TinyWeb -> OUT/raw/*.warc.gz, *.parquet and *.jsonl.zst, OUT/questions.jsonl, OUT/planted.json.

`planted.json` says by URL what a curation has to find: groups of copies, pages in other languages, and quoted questions.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, jsonl, process, progress
from megatron_octo.curation.config import TinyWeb
from megatron_octo.curation.tiny_web import page_files, page_markup
from megatron_octo.curation.tiny_web.page_files import Fetched
from megatron_octo.curation.tiny_web.pages import Kind, Page, Web, dump_of, numbers_of

RAW = "raw"
QUESTIONS = "questions.jsonl"
PLANTED = "planted.json"

Write = Callable[[Path, Iterable[Fetched]], None]
HTML_FILES = ".warc.gz"
#: In turn, file by file.
KINDS: tuple[tuple[str, Write], ...] = (
    (HTML_FILES, page_files.write_warc),
    (".parquet", page_files.write_parquet),
    (".jsonl.zst", page_files.write_jsonl),
)


def run(config: TinyWeb, out: Path, force: bool) -> None:
    with artifacts.stage(out, kind="web", config=config, force=force) as stage:
        if stage.done:
            return
        web, planted = Web(config), Planted()
        (out / RAW).mkdir()
        with progress.bar("write the tiny web", total=config.documents, unit="pages") as advance:
            for file in range(config.files):
                suffix, write = KINDS[file % len(KINDS)]
                numbered = (web.page(number) for number in numbers_of(config, file))
                fetched = _fetched(web, planted.noting(numbered, advance), dump_of(file), is_html=suffix == HTML_FILES)
                write(out / RAW / f"{dump_of(file)}-{file:05d}{suffix}", fetched)
        jsonl.replace(out / QUESTIONS, web.questions)
        artifacts.write_json(out / PLANTED, planted.listed())
        stage.counts |= {f"{kind.value}_pages": planted.counts[kind] for kind in Kind}


class Planted:
    """What was planted where."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()
        self._urls: dict[Kind, list[str]] = defaultdict(list)
        self._copies: dict[str, str] = {}

    def noting(self, all_pages: Iterable[Page], advance: progress.Advance) -> Iterator[Page]:
        for page in all_pages:
            self.counts[page.kind] += 1
            self._urls[page.kind].append(page.url)
            if page.original is not None:
                self._copies[page.url] = Web.url_of(page.original)
            advance(1)
            yield page

    def listed(self) -> dict[str, Any]:
        """URLs by kind of page, and of each copy its original."""
        return {kind.value: self._urls[kind] for kind in Kind} | {"original_of": self._copies}


def _fetched(web: Web, some: Iterable[Page], dump: str, *, is_html: bool) -> Iterator[Fetched]:
    for page in some:
        body = _html(web, page) if is_html else page_markup.as_text(web.form(page), page.title, page.paragraphs)
        yield Fetched(url=page.url, body=body, dump=dump, number=page.number)


def _html(web: Web, page: Page) -> str:
    way = web.form(page).choice(page_markup.WAYS)
    return page_markup.as_html(web.surroundings(page), page.title, page.paragraphs, way)


if __name__ == "__main__":
    raise SystemExit(process.main(run, TinyWeb))
