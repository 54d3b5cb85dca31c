"""Tests that need a GPU. `python -m pytest tests/gpu` is the whole of it; where there is none they skip themselves and say so."""

import sys
from pathlib import Path

import pytest
import torch

#: Its small models, shards and conversions are those of the CPU tests.
sys.path.append(str(Path(__file__).parents[1] / "integration"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, which would train on a CPU for nothing."""
    if not torch.cuda.is_available():
        pytest.skip(f"no GPU: torch {torch.__version__} sees no CUDA device")
