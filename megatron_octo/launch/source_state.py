"""The source code a run was started from: commit, changes as a diff, names of files git does not know. Secrets are left out.

A diff may hold what nobody meant to share: files that hold secrets by their name are left out, and so are values that look like one.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.errors import MAX_NAMES

#: git may have to look at every file of a network file system.
GIT_SECONDS = 60
REDACTED = "<left out>"
#: Files that are no source code and may hold secrets.
SECRET_FILES = ("*.env", "*.env.*", "*.pem", "*.key", "*.netrc", "*credentials*", "*secret*")
_SECRETS = re.compile(
    r"""
      \b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|nvapi-|xox[abp]-|AKIA)[\w-]{12,}      # tokens that say whose they are
    | (?<=://)[^\s/:@]+:[^\s/@]+(?=@)                                                # user and password of a URL
    | (?i:(?<=api_key)|(?<=apikey)|(?<=password)|(?<=secret)|(?<=secret_key)|(?<=access_token)|(?<=auth_token))
      ["']?\s*[:=]\s*(?:"[^"]{6,}"|'[^']{6,}'|[^\s"'(){}\[\],]{12,}+(?![(\[]))                 # values by the name before them
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class SourceState:
    """What git knows of a directory."""

    commit: str
    #: Against the commit; empty where nothing changed.
    diff: str
    #: Names only, and not all of many.
    untracked: tuple[str, ...]


def read(directory: Path, *, tracked: str | None = None) -> SourceState | None:
    """The state of the work tree around a directory; None where git is missing or knows nothing of it.

    Args:
        tracked: a file that the work tree must know: a package installed below somebody's work tree is not part of it.
    """
    if tracked is not None and _git(directory, "ls-files", "--error-unmatch", tracked) is None:
        return None
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    without = [f":(top,exclude,icase){pattern}" for pattern in SECRET_FILES]
    diff = _git(directory, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--", ":(top)", *without)
    untracked = _git(directory, "ls-files", "--others", "--exclude-standard", "--full-name", ":(top)") or ""
    return SourceState(
        commit=commit.strip(), diff=redact(diff or ""), untracked=tuple(untracked.splitlines()[:MAX_NAMES])
    )


def redact(text: str) -> str:
    """A text without what looks like a secret."""
    return _SECRETS.sub(REDACTED, text)


def _git(directory: Path, *arguments: str) -> str | None:
    command: Sequence[str] = ["git", "-C", str(directory), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
