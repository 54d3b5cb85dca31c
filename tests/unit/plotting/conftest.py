from pathlib import Path

import pytest
from synthetic_study import make_study

from megatron_octo.plotting.config import Report
from megatron_octo.plotting.run import run


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """A finished study of four models and two seeds, and the directory its report was drawn into."""
    root = tmp_path_factory.mktemp("study")
    report = make_study(root)
    run(report, root / "report", False)
    return report, root / "report"
