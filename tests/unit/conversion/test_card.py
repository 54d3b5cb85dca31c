"""The model card says what the files say, and nothing where they say nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from published_configs import MODELS

from megatron_octo.conversion import card, families
from megatron_octo.conversion.dtypes import BF16
from megatron_octo.conversion.origin import Origin

MODEL = MODELS["Llama-3.2-3B"][1]
LINEAGE = {
    "name": "octo.decay_long",
    "tokens_per_step": 4_194_304,
    "tokenizer_sha256": "00",
    "ancestors": [
        {"name": "meta-llama/Llama-3.2-3B", "directory": "/home/me/imported", "step": 0, "total_tokens": 0, "optimizer_state": False},
        {"name": "octo.stable_v2", "directory": "/home/me/stable", "step": 1000, "total_tokens": 4_194_304_000, "optimizer_state": True},
    ],
}  # fmt: skip
MARK: dict[str, Any] = {
    "done": False, "kind": "train", "counts": {}, "wall_seconds": 1.0,
    "config": {
        "recipe": {
            "name": "octo.decay_long", "seq_length": 8192, "precision": "bf16", "seed": 1234,
            "schedule": {"style": "cosine", "peak_lr": 2e-5, "min_lr": 2e-6},
            "blend": {"shares": [{"corpus": "mega|math", "weight": 0.7}, {"corpus": "long_cot", "weight": 0.3}]},
        },
    },
    "inputs": {"shards/long_cot": {"path": "/home/me/shards/long_cot", "sha256": "abc123"}},
}  # fmt: skip


def trained(tmp_path: Path, **changes: Any) -> Origin:
    stage = tmp_path / "decay_long"
    checkpoint = stage / "checkpoints" / "iter_0000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checksums.json").write_text("{}")
    (stage / "lineage.json").write_text(json.dumps(LINEAGE))
    (stage / "stage.json").write_text(json.dumps(MARK | changes))
    reference = tmp_path / "hf"
    reference.mkdir()
    (reference / "README.md").write_text("---\nlanguage:\n- en\nlicense: llama3.2\nextra: x\n---\nlicense: other\n")
    return Origin(checkpoint, MODEL, stage, reference)


def text(source: Origin, **weights_sha256: str) -> str:
    return card.text(source, family=families.LLAMA, dtype=BF16, weights_sha256=weights_sha256)


def imported(tmp_path: Path, reference: Path | None = None) -> Origin:
    stage = tmp_path / "imported"
    checkpoint = stage / "checkpoints" / "iter_0000000"
    checkpoint.mkdir(parents=True)
    (stage / "stage.json").write_text(json.dumps(MARK | {"kind": "convert", "config": {"source": "/home/me/x_1"}}))
    return Origin(checkpoint, MODEL, stage, reference)


def titles(written: str) -> list[str]:
    return [line for line in written.splitlines() if line.startswith("#")]


def head(written: str) -> Any:
    return yaml.safe_load(written.split("---\n")[1])


def test_a_run_that_is_still_training(tmp_path: Path) -> None:
    written = text(trained(tmp_path), **{"model.safetensors": "def456"})
    assert head(written) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "llama3.2",
        "base_model": "meta-llama/Llama-3.2-3B",
    }  # fmt: skip
    lines = written.splitlines()
    assert "# octo.decay\\_long" in lines
    for line in (
        "| tokens of this phase | 41,943,040 |",
        "| tokens in all | 4,236,247,040 |",
        "| learning rate | cosine, 2e-05 to 2e-06 |",
        "| seed | 1234 |",
        "| meta-llama/Llama-3.2-3B (imported) |  |  |  |",
        "| octo.stable\\_v2 | 1,000 | 4,194,304,000 | yes |",
        "| octo.decay\\_long | 10 | 4,236,247,040 |  |",
        "| mega\\|math | 0.7 |  |",
        "| long\\_cot | 0.3 | abc123 |",
        "| checkpoint | decay\\_long/checkpoints/iter\\_0000010 |",
        # sha256 of "{}"
        "| sha256 of its checksums.json | 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a |",
        "| dtype | bfloat16 |",
        "| sha256 of model.safetensors | def456 |",
    ):
        assert line in lines
    assert "/home/me" not in written


def test_a_finished_run_says_what_it_ran_on(tmp_path: Path) -> None:
    versions = {"megatron-core": "0.16.1", "torch": "2.13.0", "matplotlib": "3"}
    lines = text(trained(tmp_path, done=True, git_commit="1234abcd", versions=versions)).splitlines()
    assert "| code | 1234abcd |" in lines
    assert "| megatron-core | 0.16.1 |" in lines
    assert "| matplotlib | 3 |" not in lines


@pytest.mark.parametrize(
    ("name", "title"),
    [("release", "# my\\_run"), ("iter_0012000", "# my\\_run, iteration 12,000"), ("weights", "# weights")],
)
def test_a_checkpoint_of_which_nothing_is_known(tmp_path: Path, name: str, title: str) -> None:
    checkpoint = tmp_path / "my_run" / name
    checkpoint.mkdir(parents=True)
    written = text(Origin(checkpoint, MODEL, None, None))
    assert head(written) == {"library_name": "transformers", "pipeline_tag": "text-generation"}
    assert titles(written) == [title, "## Conversion"]
    assert "A decoder of the Llama family: 28 layers, hidden size 3,072, 24 attention heads in 8 groups" in written
    assert f"| checkpoint | my\\_run/{name} |".replace("iter_", "iter\\_") in written
    assert "None" not in written
    assert str(tmp_path) not in written


def test_a_checkpoint_of_another_tool_with_a_reference(tmp_path: Path) -> None:
    """The licence holds; whether it was made from the reference's base is not known."""
    reference = tmp_path / "Llama-3.2-3B"
    reference.mkdir()
    (reference / "README.md").write_text("---\nlicense: llama3.2\nbase_model: meta-llama/Base\n---\n")
    checkpoint = tmp_path / "my_run" / "iter_0000005"
    checkpoint.mkdir(parents=True)
    written = text(Origin(checkpoint, MODEL, None, reference))
    assert head(written) == {"library_name": "transformers", "pipeline_tag": "text-generation", "license": "llama3.2"}
    assert "| config.json and licence of | Llama-3.2-3B |" in written
    assert str(tmp_path) not in written


@pytest.mark.parametrize("base", ["base_model: meta-llama/Base", "base_model:\n- meta-llama/Base"])
def test_an_import_that_was_never_trained_is_made_from_the_same_base(tmp_path: Path, base: str) -> None:
    reference = tmp_path / "hf"
    reference.mkdir()
    (reference / "README.md").write_text(f"---\nlicense: apache-2.0\n{base}\ntags:\n- x\n---\n")
    written = text(imported(tmp_path, reference))
    assert head(written) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "apache-2.0",
        "base_model": "meta-llama/Base",
    }  # fmt: skip


def test_what_was_proved_is_said(tmp_path: Path) -> None:
    source = imported(tmp_path)
    proved = (
        "| weights | every tensor compared",
        "| logits | those of Megatron-Core and transformers on fixed token ids",
    )
    assert not any(line in text(source) for line in proved)
    proof = {"tensors": 3, "checked_tensors": 3, "largest_logit_difference": 1.25e-6}
    written = card.text(source, family=families.LLAMA, dtype=BF16, proof=proof)
    assert all(line in written for line in proved)
    assert "differ by at most 1.25e-06 (fp32, CPU) |" in written


def test_an_import_that_was_never_trained(tmp_path: Path) -> None:
    written = text(imported(tmp_path))
    assert titles(written) == ["# imported", "## Conversion"]
    assert "| imported from | x\\_1 |" in written
    assert "/home/me" not in written


def test_a_run_from_random_weights(tmp_path: Path) -> None:
    source = trained(tmp_path)
    assert source.stage is not None
    (source.stage / "lineage.json").write_text(json.dumps(LINEAGE | {"ancestors": []}))
    written = text(source)
    assert "| random weights |  |  |  |" in written
    assert "| tokens in all | 41,943,040 |" in written
    assert "base_model" not in written
