"""A table of checks: what was looked at, what was found, and what to do about it."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_octo.config import to_dict


class State(enum.Enum):
    """Only `FAIL` stops anything."""

    OK = "ok"
    #: Works, and is worth knowing.
    WARN = "warn"
    FAIL = "fail"
    #: Could not be looked at from here.
    UNKNOWN = "unknown"


MARKS = {State.OK: "ok  ", State.WARN: "warn", State.FAIL: "FAIL", State.UNKNOWN: "-   "}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line."""

    what: str
    state: State
    #: What was found.
    text: str
    #: What to do; empty where nothing is to be done.
    remedy: str = ""

    def __post_init__(self) -> None:
        assert self.state is not State.FAIL or self.remedy, f"'{self.what}' fails and says no remedy"


def ok(what: str, text: str) -> Check:
    return Check(what=what, state=State.OK, text=text)


def warn(what: str, text: str, remedy: str) -> Check:
    return Check(what=what, state=State.WARN, text=text, remedy=remedy)


def fail(what: str, text: str, remedy: str) -> Check:
    return Check(what=what, state=State.FAIL, text=text, remedy=remedy)


def unknown(what: str, text: str, remedy: str = "") -> Check:
    return Check(what=what, state=State.UNKNOWN, text=text, remedy=remedy)


def passes(checks: Sequence[Check]) -> bool:
    """Whether nothing would fail."""
    return all(check.state is not State.FAIL for check in checks)


def table(checks: Sequence[Check]) -> str:
    """A line per check, its remedy below it, and the sum."""
    width = max((len(check.what) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{MARKS[check.state]} {check.what:<{width}}  {check.text}")
        if check.remedy:
            lines.append(f"{'':<{width + 5}}  -> {check.remedy}")
    counts = {state: sum(check.state is state for check in checks) for state in State}
    said = ", ".join(f"{number} {state.value}" for state, number in counts.items() if number)
    return "\n".join([*lines, said or "nothing to check"])


def as_data(checks: Sequence[Check]) -> dict[str, object]:
    """The same as plain JSON data."""
    return {"passes": passes(checks), "checks": [to_dict(check) for check in checks]}
