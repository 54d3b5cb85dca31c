"""Which rank failed first, and how: out of what the ranks of a session said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.process import last_lines

TRACEBACK = "Traceback (most recent call last):"
#: Lines from the end of a rank's log in which its traceback is looked for.
SEARCHED_LINES = 2000
#: Exceptions of ranks that lost another one, or were told to stop: how these ended is not why.
CONSEQUENCES = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|timed? ?out|nccl|process group|KeyboardInterrupt|DistNetworkError|recvValue",
    re.IGNORECASE,
)
#: Lines between two tracebacks that belong together.
_CHAINS = ("During handling of the above exception", "The above exception was the direct cause")
_RANK = re.compile(r"rank(\d+)\.log")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The traceback of one rank."""

    rank: int
    file: Path
    lines: list[str]


def rank_logs(folder: Path) -> dict[int, Path]:
    """The ranks' logs of a session by rank."""
    found = ((_RANK.fullmatch(path.name), path) for path in folder.glob("rank*.log"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def first_failure(folder: Path) -> Failure | None:
    """The rank that failed first, None where none left a traceback.

    Ranks that lost a peer leave one too: an exception of another kind comes first, then whoever fell silent first.
    """
    found = [
        Failure(rank=rank, file=file, lines=lines)
        for rank, file in rank_logs(folder).items()
        if (lines := last_traceback(last_lines(file, SEARCHED_LINES)))
    ]
    return min(found, key=_blame, default=None)


def _blame(failure: Failure) -> tuple[bool, int, int]:
    is_consequence = CONSEQUENCES.search(failure.lines[-1]) is not None
    return is_consequence, failure.file.stat().st_mtime_ns, failure.rank


def last_traceback(lines: Sequence[str]) -> list[str]:
    """The last traceback among some lines, with those of the exceptions that it names as its cause; empty without one."""
    starts = [index for index, line in enumerate(lines) if line.strip() == TRACEBACK]
    if not starts:
        return []
    first = last = starts.pop()
    while starts and any(line.startswith(_CHAINS) for line in lines[starts[-1] : first]):
        first = starts.pop()
    # Frames are indented; the exception's own line is the first that is not.
    ends = (at for at in range(last + 1, len(lines)) if lines[at] and not lines[at].startswith(" "))
    return list(lines[first : next(ends, len(lines) - 1) + 1])
