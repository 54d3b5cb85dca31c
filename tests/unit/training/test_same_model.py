"""Weights that fit in shape and belong to another decoder are refused before a run begins."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.config import to_dict
from megatron_octo.errors import ConfigError
from megatron_octo.recipes import tiny
from megatron_octo.training import checkpoint


def described(directory: Path, **changed: Any) -> Path:
    (directory / "model.json").write_text(json.dumps(to_dict(dataclasses.replace(tiny.MODEL, **changed))))
    return directory


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"layernorm_epsilon": 1e-6},
            "has layernorm_epsilon 1e-06 .the recipe has 1e-05.; .* set model.layernorm_epsilon=1e-06",
        ),
        ({"rotary_base": 5e5, "qk_layernorm": True}, "has rotary_base 500000.0 .*, qk_layernorm True"),
    ],
)
def test_another_decoder_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        checkpoint.require_same_model(described(tmp_path, **changed), tiny.MODEL)


def test_the_same_decoder_may_go_further(tmp_path: Path) -> None:
    checkpoint.require_same_model(described(tmp_path, max_position_embeddings=131_072), tiny.MODEL)


def test_a_checkpoint_without_a_description_is_taken(tmp_path: Path) -> None:
    checkpoint.require_same_model(tmp_path, tiny.MODEL)
