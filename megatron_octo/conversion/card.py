"""The model card of an exported model: what it is and what it came from, as far as its training stage tells."""

import json
from pathlib import Path
from typing import Any

from megatron_octo import units
from megatron_octo.conversion import families
from megatron_octo.training.config import ModelConfig


def write_card(directory: Path, *, model: ModelConfig, checkpoint: Path, stage: dict[str, Any] | None) -> None:
    """README.md, with the lineage where the training stage is known."""
    lines = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---",
        f"# {_recipe(stage).get('name', checkpoint.name)}",
        f"A decoder of the {families.of_model(model).name} family: {model.num_layers} layers, hidden size "
        f"{model.hidden_size}, vocabulary {model.vocab_size:,}. Converted by megatron-octo from the Megatron "
        f"checkpoint `{checkpoint.name}`.",
        *(_lineage(stage) if stage is not None else []),
    ]
    (directory / "README.md").write_text("\n\n".join(lines) + "\n")


def _lineage(stage: dict[str, Any]) -> list[str]:
    recipe, counts = _recipe(stage), stage["counts"]
    facts = {
        "Tokens of this phase": units.count(recipe["train_tokens"]) if "train_tokens" in recipe else None,
        "Tokens in all": units.count(counts["total_tokens"]) if "total_tokens" in counts else None,
        "Started from": (recipe.get("branch_point") or {}).get("parent") or recipe.get("init_from"),
        "Code": stage.get("git_commit"),
        "Finished": stage.get("finished_at"),
    }
    shares = recipe.get("blend", {}).get("shares", [])
    return [
        "## Lineage",
        "\n".join(f"- {name}: {value}" for name, value in facts.items() if value is not None),
        *([_table(shares)] if shares else []),
        "Inputs and package versions:",
        f"```json\n{json.dumps({key: stage.get(key) for key in ('inputs', 'versions')}, indent=2)}\n```",
    ]


def _table(shares: list[dict[str, Any]]) -> str:
    rows = [f"| {share['corpus']} | {share['weight']:g} |" for share in shares]
    return "\n".join(["| corpus | share |", "|---|---|", *rows])


def _recipe(stage: dict[str, Any] | None) -> dict[str, Any]:
    recipe: dict[str, Any] = (stage or {}).get("config", {}).get("recipe", {})
    return recipe
