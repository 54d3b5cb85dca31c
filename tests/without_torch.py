"""A pytest plugin for a Python that has no torch: `PYTHONPATH=tests python -m pytest -p without_torch`, in `make test-python312`.

Files and tests that end because `import torch` finds none are skipped. Nothing else is forgiven, and where torch is, this is an error.
"""

import importlib.util
from collections.abc import Generator

import pytest

ABSENT = "torch"


def pytest_configure() -> None:
    if importlib.util.find_spec(ABSENT) is not None:
        raise pytest.UsageError(f"{ABSENT} is here: leave -p without_torch away")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.call.excinfo is not None and is_for_want_of_torch(report.call.excinfo.value):  # type: ignore[attr-defined]
        _skip(report, collector)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and is_for_want_of_torch(call.excinfo.value):
        _skip(report, item)
    return report


def is_for_want_of_torch(error: BaseException) -> bool:
    """Whether this is, or was raised from, the failed import."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == ABSENT:
        return True
    return error.__cause__ is not None and is_for_want_of_torch(error.__cause__)


def _skip(report: pytest.CollectReport | pytest.TestReport, node: pytest.Collector | pytest.Item) -> None:
    report.outcome = "skipped"
    report.longrepr = (str(node.path), 0, f"there is no {ABSENT}")
