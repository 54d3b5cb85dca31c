"""Web pages out of WARC files: responses that hold HTML, decoded.

Not datatrove's reader (0.10.1): it needs warcio, cchardet and libmagic, asks nobody for the charset before it has failed at UTF-8, and
drops pages that are not what cchardet guesses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from megatron_octo.curation.raw.streams import RECORD_END, DamagedError, Stream, reason

HTML_TYPES = ("text/html", "application/xhtml+xml")
OK = 200


@dataclass(frozen=True, kw_only=True)
class Page:
    record: str
    url: str
    timestamp: str
    html: str


def pages(file: Path) -> Iterator[Page | None]:
    """Pages in their order; None for a response that is no page: another type, or an error's.

    Raises `DamagedError` where the rest of the file cannot be read.
    """
    with Stream(file, ends_with=RECORD_END) as stream:
        try:
            for record in ArchiveIterator(
                stream, record_types=WarcRecordType.response, auto_decode="all", strict_mode=False
            ):
                yield _page(record)
        except (OSError, ValueError) as error:
            raise DamagedError(reason(error)) from error


def decoded(page: bytes, declared: str | None) -> str:
    """HTML as text. What the server declares goes first, then what the page says itself, then what its bytes look like."""
    known = map_encoding_to_html5(declared, fallback_utf8=False) if declared else None
    charset = known or detect_encoding(page, from_html_meta=True) or "utf-8"
    return str(bytes_to_str(page, charset, errors="replace", fallback_encodings=("utf-8", "cp1252")))


def _page(record: Any) -> Page | None:
    headers = record.http_headers
    if headers is None or headers.status_code != OK or _mime(record) not in HTML_TYPES:
        return None
    return Page(
        record=record.record_id or "",
        url=record.headers.get("WARC-Target-URI", ""),
        timestamp=record.headers.get("WARC-Date", ""),
        html=decoded(record.reader.read(), record.http_charset),
    )


def _mime(record: Any) -> str:
    """The type Common Crawl has recognised, else what the server said."""
    found = record.headers.get("WARC-Identified-Payload-Type") or record.http_content_type or ""
    return str(found).partition(";")[0].strip().lower()
