"""Which documents are copies, as a process: `python -m megatron_octo.curation.copies.duplicates_run DUPLICATES.json OUT`.

Leaves, per part, OUT/copies/00003.jsonl: {"ordinal": within the part, "id", "of": id of the document that stays, "part": its part,
"exact": whether their texts are the same or near}. Bands are made one by one, by any of the workers; a rerun makes those missing.
"""

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

from megatron_octo import artifacts, process, progress, workers
from megatron_octo.curation.config import Duplicates
from megatron_octo.curation.copies import duplicates
from megatron_octo.curation.copies.duplicates import Copy, Likeness, Numbers
from megatron_octo.curation.copies.signatures import Signed

FOLDER = "copies"
#: Among the bands: no band, documents with the same digest.
EXACT = "exact"
_LINKS = "links"


def run(config: Duplicates, out: Path, force: bool) -> None:
    """Find pairs band by band, join them to groups, write who goes."""
    with artifacts.stage(
        out, kind="duplicates", config=config, inputs={"signatures": config.signatures}, resumable=True, force=force
    ) as stage:
        if stage.done:
            return
        signed = Signed(config.signatures)
        links = stage.logs / _LINKS
        _make_links(config, links, [EXACT, *map(str, range(signed.num_bands))])
        exact = duplicates.first_of_groups(signed.num_documents, [_read_links(links, EXACT)])
        with progress.bar("groups", total=signed.num_bands + 1, unit="bands") as advance:
            near = duplicates.first_of_groups(signed.num_documents, _every(links, signed.num_bands, advance))
        stage.counts |= _write_copies(signed, exact, near, out / FOLDER)
        shutil.rmtree(links)


# Bands ----------------------------------------------------------------------------------------------------------------


def _make_links(config: Duplicates, folder: Path, bands: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    missing = [band for band in bands if not _links_file(folder, band).exists()]
    if not missing:
        return
    work = functools.partial(_make_band, config.signatures, config.min_similarity, folder)
    with progress.bar("bands", total=len(bands), unit="bands", done=len(bands) - len(missing)) as advance:
        workers.each(work, missing, num_workers=config.workers, on_progress=advance)


def _make_band(signatures: Path, min_similarity: float, folder: Path, band: str) -> None:
    """In a worker."""
    signed = Signed(signatures)
    if band == EXACT:
        keys, likeness = signed.digest_keys(), Likeness(rows=signed.digests, bounds=signed.bounds, min_share=1.0)
    else:
        keys = signed.keys(int(band))
        likeness = Likeness(rows=signed.sketches, bounds=signed.bounds, min_share=min_similarity)
    with artifacts.appearing(_links_file(folder, band)) as temporary, temporary.open("wb") as stream:
        np.save(stream, duplicates.links(keys, likeness))
    workers.advance(1)


def _every(links: Path, num_bands: int, advance: progress.Advance) -> Iterator[Numbers]:
    for band in (EXACT, *map(str, range(num_bands))):
        yield _read_links(links, band)
        advance(1)


def _read_links(folder: Path, band: str) -> Numbers:
    pairs: Numbers = np.load(_links_file(folder, band))
    return pairs


def _links_file(folder: Path, band: str) -> Path:
    return folder / f"{band}.npy"


# Copies ---------------------------------------------------------------------------------------------------------------


def _write_copies(signed: Signed, exact: Numbers, near: Numbers, folder: Path) -> dict[str, int]:
    folder.mkdir(exist_ok=True)
    names = _ids_of_firsts(signed, near)
    counts = {"documents": signed.num_documents, "groups": len(names), "exact_duplicates": 0, "near_duplicates": 0}
    with progress.bar("copies", total=signed.num_parts, unit="parts") as advance:
        for part in range(signed.num_parts):
            of_part = range(*signed.bounds[part : part + 2].tolist())
            ids = signed.ids(part)
            with (folder / f"{part:05d}.jsonl").open("wb") as stream:
                for copy in duplicates.copies(exact, near, of_part):
                    counts["exact_duplicates" if copy.is_exact else "near_duplicates"] += 1
                    stream.write(_line(signed, copy, ordinal=copy.document - of_part.start, ids=ids, names=names))
            advance(1)
    return counts


def _ids_of_firsts(signed: Signed, near: Numbers) -> dict[int, str]:
    """Ids of the documents that stay and have copies, by their numbers."""
    firsts = np.unique(near[near != np.arange(len(near))])
    names: dict[int, str] = {}
    for part in range(signed.num_parts):
        start, stop = signed.bounds[part : part + 2].tolist()
        here = firsts[(firsts >= start) & (firsts < stop)].tolist()
        ids = signed.ids(part) if here else []
        names |= {first: ids[first - start] for first in here}
    return names


def _line(signed: Signed, copy: Copy, *, ordinal: int, ids: list[str], names: dict[int, str]) -> bytes:
    part = int(np.searchsorted(signed.bounds, copy.of, side="right")) - 1
    row = {"ordinal": ordinal, "id": ids[ordinal], "of": names[copy.of], "part": part, "exact": copy.is_exact}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Duplicates))
