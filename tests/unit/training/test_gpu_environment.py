"""What a training run on GPUs starts with, by its layout and its GPUs."""

import re
from pathlib import Path

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.training import gpu_environment
from megatron_octo.training.parallelism import Parallelism

HOPPER, BLACKWELL = 9.0, 10.0
SEGMENTS = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
MARGINS = {"NVTE_FWD_LAYERNORM_SM_MARGIN": "20", "NVTE_BWD_LAYERNORM_SM_MARGIN": "20"}
OVERLAPPED = {"overlap_grad_reduce": True, "overlap_param_gather": True}
TENSOR = Parallelism(tensor_model_parallel_size=2, **OVERLAPPED)  # type: ignore[arg-type]  # a dict of switches
DOCS = Path(__file__).parents[3] / "docs" / "training.md"


def queues(number: str) -> dict[str, str]:
    return {"CUDA_DEVICE_MAX_CONNECTIONS": number}


def started_with(layout: Parallelism, ranks: int, *, capability: float = HOPPER, **environment: str) -> dict[str, str]:
    found = gpu_environment.variables(layout, ranks=ranks)
    return gpu_environment.unset(found, environment, compute_capability=capability)


@pytest.mark.parametrize(
    ("layout", "ranks", "expected"),
    [
        ({}, 1, SEGMENTS),
        # nobody to reduce with
        (OVERLAPPED, 1, SEGMENTS),
        ({}, 8, SEGMENTS | queues("32")),
        (OVERLAPPED, 8, SEGMENTS | queues("32") | MARGINS),
        ({"tensor_model_parallel_size": 2}, 2, SEGMENTS | queues("1")),
        ({"tensor_model_parallel_size": 2, **OVERLAPPED}, 2, SEGMENTS | queues("1")),
        ({"tensor_model_parallel_size": 2, **OVERLAPPED}, 8, SEGMENTS | queues("1") | MARGINS),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, 8, SEGMENTS | queues("1")),
        # the ranks of a context-parallel group hold the same weights
        ({"context_parallel_size": 2, **OVERLAPPED}, 2, SEGMENTS | queues("1") | MARGINS),
        ({"pipeline_model_parallel_size": 2, **OVERLAPPED}, 2, SEGMENTS | queues("32")),
        (
            {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2, "overlap_p2p_comm": True},
            2,
            SEGMENTS | queues("32") | MARGINS,
        ),
    ],
)
def test_what_a_layout_starts_with(layout: dict[str, int], ranks: int, expected: dict[str, str]) -> None:
    assert started_with(Parallelism(**layout), ranks) == expected  # type: ignore[arg-type]  # switches among the sizes


@pytest.mark.parametrize(("capability", "number"), [(8.0, "1"), (9.0, "1"), (10.0, "32"), (12.1, "32")])
def test_blackwell_needs_no_order_of_kernels(capability: float, number: str) -> None:
    expected = SEGMENTS | queues(number) | MARGINS
    assert started_with(TENSOR, 8, capability=capability) == expected
    assert started_with(Parallelism(), 8, capability=capability) == SEGMENTS | queues("32")


def test_what_the_user_set_stays() -> None:
    rest = SEGMENTS | MARGINS
    assert started_with(TENSOR, 8, CUDA_DEVICE_MAX_CONNECTIONS="8") == rest
    assert started_with(TENSOR, 8, capability=BLACKWELL, CUDA_DEVICE_MAX_CONNECTIONS="8") == rest
    assert started_with(TENSOR, 8, PYTORCH_CUDA_ALLOC_CONF="backend:native") == queues("1") | MARGINS
    assert started_with(TENSOR, 8, PYTORCH_ALLOC_CONF="backend:native") == queues("1") | MARGINS
    assert started_with(TENSOR, 8, NVTE_FWD_LAYERNORM_SM_MARGIN="") == rest | queues("1")


@pytest.mark.parametrize("value", ["0", "2", ""])
@pytest.mark.parametrize("name", gpu_environment.ATTENTION_SWITCHES)
def test_a_switch_that_megatron_would_assert_on_is_refused(name: str, value: str) -> None:
    message = f"{name}='{value}' in the environment: .* unset NVTE_FLASH_ATTN NVTE_FUSED_ATTN NVTE_UNFUSED_ATTN$"
    with pytest.raises(ConfigError, match=message):
        gpu_environment.require_attention_is_free({name: value})


def test_switches_may_be_unset_or_1() -> None:
    gpu_environment.require_attention_is_free({"NVTE_FLASH_ATTN": "1", "NVTE_DEBUG": "0"})


def test_the_docs_name_every_variable_with_its_values() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if re.match(r"\| `[A-Z_]+", line)]
    for layout in (Parallelism(), TENSOR):
        for each in gpu_environment.variables(layout, ranks=8):
            words = [each.name, each.value, *([each.on_blackwell] if each.on_blackwell else [])]
            assert any(all(f"`{word}`" in row for word in words) for row in rows), each.name
