"""The model card of an exported model: what it is and what it came from, as far as its files tell.

Nothing of the machine is in it: runs and checkpoints go by their names, data by its hashes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, checksums
from megatron_octo.conversion import origin
from megatron_octo.conversion.dtypes import Dtype
from megatron_octo.conversion.families import Family
from megatron_octo.conversion.hf_config import CARD_FILE
from megatron_octo.conversion.origin import Origin

#: What has a meaning in Markdown, inside a line or a cell.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&])")
#: A model on the hub, as `base_model` names one.
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
#: The lines of a model card's head that say under which licence it is, and what it was made from.
_LICENCE = re.compile(r"^(license|license_name|license_link): *([\w.:/-]+) *$", re.MULTILINE)
_BASE = re.compile(rf"^base_model:(?: *\n *-)? *({_HUB_NAME.pattern}) *$", re.MULTILINE)
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
#: Megatron-LM's name for a checkpoint that belongs to no iteration.
_RELEASE = "release"
#: Of the training stage's packages, those that make the numbers.
_PACKAGES = ("python", "megatron-octo", "megatron-core", "torch", "transformer-engine", "flash-attn")

Rows = Sequence[tuple[object, ...]]


def text(
    source: Origin,
    *,
    family: Family,
    dtype: Dtype,
    proof: Mapping[str, Any] | None = None,
    weights_sha256: Mapping[str, str] | None = None,
) -> str:
    """The README.md of the exported directory.

    Args:
        family: as which it is exported.
        dtype: of the weights.
        proof: `checked_tensors` and `largest_logit_difference`, where they are known; other counts are passed over.
        weights_sha256: of every file of weights by name, where it is known.
    """
    mark = artifacts.read_mark(source.stage) if source.stage is not None else None
    lineage = origin.lineage(source.stage) if source.stage is not None else {}
    parts = [
        _head(lineage, _head_of(source.reference), is_import=_is_import(mark)),
        f"# {_escape(_name(source, lineage))}",
        _summary(source, family),
        *_recipe(source, mark, lineage),
        *_ancestry(source, lineage),
        *_data(mark),
        *_conversion(source, _imported_from(mark), dtype, proof or {}, weights_sha256 or {}),
    ]
    return "\n\n".join(parts) + "\n"


def _head(lineage: Mapping[str, Any], of_reference: str, *, is_import: bool) -> str:
    """The YAML that the hub reads.

    An import is the model its reference's card is about, and was made from the same base. What a checkpoint of another tool was
    made from is not known, whoever its reference is.
    """
    licence = [f"{key}: {value}" for key, value in _LICENCE.findall(of_reference)]
    trained_from = next((ancestor["name"] for ancestor in lineage.get("ancestors", ()) if not ancestor["step"]), "")
    bases = _BASE.findall(of_reference) if is_import else filter(_HUB_NAME.fullmatch, [trained_from])
    lines = ["library_name: transformers", "pipeline_tag: text-generation", *licence]
    return "\n".join(["---", *lines, *(f"base_model: {base}" for base in bases), "---"])


def _head_of(reference: Path | None) -> str:
    """The YAML of a reference's own card."""
    card = reference / CARD_FILE if reference is not None else None
    if card is None or not card.is_file():
        return ""
    head = _HEAD.match(card.read_text(encoding="utf-8", errors="replace"))
    return head[1] if head else ""


def _is_import(mark: Mapping[str, Any] | None) -> bool:
    return mark is not None and mark["kind"] == "convert"


def _imported_from(mark: Mapping[str, Any] | None) -> str | None:
    """The name of the Hugging Face directory that an import was made of."""
    return Path(mark["config"]["source"]).name if mark is not None and _is_import(mark) else None


def _name(source: Origin, lineage: Mapping[str, Any]) -> str:
    if source.stage is not None:
        return str(lineage.get("name") or source.stage.name)
    directory, checkpoint = _save_directory(source), source.checkpoint.name
    if source.step is not None:
        return f"{directory}, iteration {source.step:,}"
    return directory if checkpoint == _RELEASE else checkpoint


def _save_directory(source: Origin) -> str:
    """Of another tool: Megatron-LM's is what `--save` named."""
    return source.checkpoint.absolute().parent.name


def _summary(source: Origin, family: Family) -> str:
    model = source.model
    return (
        f"A decoder of the {family.name} family: {model.num_layers} layers, hidden size {model.hidden_size:,}, "
        f"{model.num_attention_heads} attention heads in {model.num_query_groups} groups, vocabulary {model.vocab_size:,}, "
        f"{model.max_position_embeddings:,} positions."
    )


def _recipe(source: Origin, mark: Mapping[str, Any] | None, lineage: Mapping[str, Any]) -> list[str]:
    recipe = (mark or {}).get("config", {}).get("recipe")
    if mark is None or recipe is None:
        return []
    schedule, tokens = recipe.get("schedule", {}), _tokens(source, lineage)
    rows = [
        ("recipe", recipe.get("name")),
        ("tokens of this phase", tokens),
        ("tokens in all", None if tokens is None else tokens + _tokens_before(lineage)),
        ("tokens per step", lineage.get("tokens_per_step")),
        ("sequence length", recipe.get("seq_length")),
        ("learning rate", _spell_rate(schedule)),
        ("precision", recipe.get("precision")),
        ("seed", str(recipe.get("seed"))),
        ("code", mark.get("git_commit")),
        *((package, version) for package, version in mark.get("versions", {}).items() if package in _PACKAGES),
    ]
    return ["## Recipe", _table(("", ""), [row for row in rows if row[1] is not None])]


def _spell_rate(schedule: Mapping[str, Any]) -> str | None:
    if "peak_lr" not in schedule:
        return None
    return f"{schedule.get('style')}, {schedule['peak_lr']:g} to {schedule.get('min_lr', 0.0):g}"


def _tokens(source: Origin, lineage: Mapping[str, Any]) -> int | None:
    """Of this phase, at this checkpoint: the stage's own count is of its end, and a run may still be training."""
    if source.step is None or "tokens_per_step" not in lineage:
        return None
    return source.step * int(lineage["tokens_per_step"])


def _tokens_before(lineage: Mapping[str, Any]) -> int:
    before = lineage.get("ancestors") or [{"total_tokens": 0}]
    return int(before[-1]["total_tokens"])


def _ancestry(source: Origin, lineage: Mapping[str, Any]) -> list[str]:
    if not lineage:
        return []
    tokens = _tokens(source, lineage) or 0
    rows: list[tuple[object, ...]] = [
        (one["name"], one["step"], one["total_tokens"], "yes" if one["optimizer_state"] else "no")
        if one["step"]
        else (f"{one['name']} (imported)", "", "", "")
        for one in lineage.get("ancestors", ())
    ]
    rows = rows or [("random weights", "", "", "")]
    rows.append((lineage["name"], source.step, tokens + _tokens_before(lineage), ""))
    return ["## Lineage", _table(("run", "until step", "tokens in all by then", "optimizer state carried on"), rows)]


def _data(mark: Mapping[str, Any] | None) -> list[str]:
    """Every corpus with its share of this phase's tokens and the hash of its shards."""
    if mark is None:
        return []
    shares = mark["config"].get("recipe", {}).get("blend", {}).get("shares", [])
    rows = [
        (share["corpus"], f"{share['weight']:g}", mark["inputs"].get(f"shards/{share['corpus']}", {}).get("sha256", ""))
        for share in shares
    ]
    return ["## Data of this phase", _table(("corpus", "share", "sha256 of its shards"), rows)] if rows else []


def _conversion(
    source: Origin,
    imported_from: str | None,
    dtype: Dtype,
    proof: Mapping[str, Any],
    weights_sha256: Mapping[str, str],
) -> list[str]:
    sums = source.checkpoint / checksums.FILE
    run = f"{source.stage.name}/checkpoints" if source.stage is not None else _save_directory(source)
    named = source.reference if source.stage is None else None
    rows = [
        ("checkpoint", f"{run}/{source.checkpoint.name}"),
        (f"sha256 of its {checksums.FILE}", artifacts.hash_file(sums) if sums.is_file() else None),
        ("imported from", imported_from),
        ("config.json and licence of", None if named is None else named.absolute().name),
        ("dtype", dtype.name),
        ("megatron-octo", artifacts.versions().get("megatron-octo")),
        ("code", artifacts.git_commit()),
        *_proof(proof),
        *((f"sha256 of {name}", sha256) for name, sha256 in weights_sha256.items()),
    ]
    return ["## Conversion", _table(("", ""), [row for row in rows if row[1] is not None])]


def _proof(found: Mapping[str, Any]) -> Rows:
    rows: list[tuple[object, ...]] = []
    if "checked_tensors" in found:
        rows.append(("weights", "every tensor compared byte for byte with the checkpoint, in this dtype"))
    if "largest_logit_difference" in found:
        most = f"{found['largest_logit_difference']:.3g}"
        rows.append(
            (
                "logits",
                f"those of Megatron-Core and transformers on fixed token ids differ by at most {most} (fp32, CPU)",
            )
        )
    return rows


def _table(header: tuple[str, ...], rows: Rows) -> str:
    lines = [header, ("---",) * len(header), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _escape("" if value is None else str(value))


def _escape(words: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(words.split()))
