"""Pip's reports as a lock with hashes: `python tools/lock_report.py REPORT.json... [--without REGEX]` (`make lock-images`).

A report is what `pip install --dry-run --report FILE` says. Hashes are of the one file that pip chose, so a lock is for the Python and the
machine it was made on: 3.12 or newer for pure Python alone, Linux on x86-64.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def lines(reports: Iterable[Mapping[str, Any]], *, without: str | None) -> list[str]:
    """`name==version --hash=sha256:...`, sorted; without what has no archive (our own package) or a name that matches `without`."""
    archives = [
        (entry["metadata"], entry["download_info"]["archive_info"]["hashes"]["sha256"])
        for report in reports
        for entry in report["install"]
        if "archive_info" in entry["download_info"]
    ]
    kept = [
        f"{metadata['name']}=={metadata['version']} --hash=sha256:{sha256}"
        for metadata, sha256 in archives
        if without is None or not re.fullmatch(without, metadata["name"].lower())
    ]
    return sorted(set(kept), key=str.lower)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--without", help="names to leave out, a regular expression")
    given = parser.parse_args()
    print(*lines((json.loads(file.read_text()) for file in given.reports), without=given.without), sep="\n")
