"""Exceptions for people: every message says what was given, what is allowed and what to do.

The command line prints an `OctoError` as one message and leaves with exit code 2; anything else is a defect of ours and
keeps its traceback.
"""

import difflib
from collections.abc import Collection, Iterable


class OctoError(ValueError):
    """Something the user gave cannot work; the message says what to do about it."""


class ConfigError(OctoError):
    """A recipe, a field or a value that is not allowed."""


class CorpusError(OctoError):
    """Text or token files that are missing, unreadable or not what they should be."""


class ArtifactError(OctoError):
    """A stage directory that contradicts what is asked of it (other config, other inputs, unfinished, corrupt)."""


class TrainingError(OctoError):
    """A run that goes wrong in a way its settings do not allow: too many steps without a usable gradient."""


class ResourceError(OctoError):
    """The machine lacks something: disk, a free port, a package, a process that stayed alive."""


#: Names that a message lists before it counts the rest.
MAX_NAMES = 20


def listed(names: Collection[str]) -> str:
    """Names in a message, or `none`: `a, b and 3 more`."""
    shown = ", ".join(list(names)[:MAX_NAMES]) or "none"
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES:,} more"


def nearest(name: str, allowed: Iterable[str], *, count: int = 3) -> str:
    """The hint that ends a message about an unknown name: `; nearest: a, b` or the whole list when it is short."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; allowed: {', '.join(names)}" if len(names) <= 20 else ""
