"""Every stand-in that lets Megatron-Core run without CUDA is needed: left out, training, saving or loading breaks.

Each is left out of the scenario in which it breaks first; with all in place, test_training.py shows that every layout works, and
here the two paths it does not take: bf16, and an optimizer that is not distributed. Not covered: the single names inside
the view of torch (`FACTORIES`, `synchronize`, ...), of which Megatron uses different ones at different layouts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_octo.training import cpu

PROBE = Path(__file__).with_name("stand_in_probe.py")
NO_CUDA = "Torch not compiled with CUDA enabled"
WORKS = ("one", "bf16", "plain_optimizer")
#: What breaks without a stand-in, and where.
BREAKS = {
    **{f"one:{module}": NO_CUDA for module in cpu.MODULES if module != "pipeline_parallel.p2p_communication"},
    "pp2:pipeline_parallel.p2p_communication": NO_CUDA,
    "one:Tensor.cuda": NO_CUDA,
    "one:Tensor.type": "Wrapped parameters must be one of torch.cuda.FloatTensor",
    "one:set_rng_state": "the fork disturbs the state outside",
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def errors(scratch: Path) -> dict[str, str | None]:
    """Error by scenario and name; one process imports Megatron for all of them."""
    command = [sys.executable, str(PROBE), str(scratch), *BREAKS, *(f"{scenario}:nothing" for scenario in WORKS)]
    probe = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500
    )
    assert probe.returncode == 0, probe.stderr
    return json.loads(probe.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("left_out", BREAKS)
def test_without_it_something_breaks(errors: dict[str, str | None], left_out: str) -> None:
    assert BREAKS[left_out] in (errors[left_out] or "nothing broke")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", WORKS)
def test_with_all_of_them_a_resumed_run_is_the_unbroken_one(errors: dict[str, str | None], scenario: str) -> None:
    assert errors[f"{scenario}:nothing"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "tolerance"), [("plain_optimizer", 1e-5), ("bf16", 2e-2)])  # bf16: three digits
def test_precision_and_kind_of_optimizer_do_not_change_what_is_learned(
    errors: dict[str, str | None], scratch: Path, scenario: str, tolerance: float
) -> None:
    one, other = (json.loads((scratch / f"{name}:nothing" / "unbroken").read_text()) for name in ("one", scenario))
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in other] == pytest.approx([row[key] for row in one], rel=tolerance)
