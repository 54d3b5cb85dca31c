"""The checks of preflight.py that read the starting model. Each says what it saw; an error says what is wrong and what to do."""

import math
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from megatron_octo import artifacts, generation, questions, templates, units
from megatron_octo.errors import ArtifactError, CorpusError, OctoError, ResourceError
from megatron_octo.questions import Question
from megatron_octo.rl.config import Engine, RLJob
from megatron_octo.rl.context import check_context
from megatron_octo.rl.prompts import prepare
from megatron_octo.rl.rewards import Scorer, score_all

#: Responses sampled together where the job does not say: 10 GiB of KV cache for 8B parameters at 2,448 tokens.
PROBE_BATCH = 32
#: Bytes per parameter, of a checkpoint and of the trained model. TRL: fp32 weights and two moments; OpenRLHF: bf16 weights
#: beside those.
CHECKPOINT_BYTES = {Engine.TRL: 12, Engine.OPENRLHF: 14}
MODEL_BYTES = {Engine.TRL: 4, Engine.OPENRLHF: 2}


def model(job: RLJob) -> str:
    if not (job.model / "config.json").exists() or not any(job.model.glob("*.safetensors")):
        raise ArtifactError(
            f"{job.model} is no Hugging Face model (no config.json or no *.safetensors); convert the checkpoint first"
        )
    try:
        parameters = _parameters(job)
        kind = AutoConfig.from_pretrained(job.model, local_files_only=True).model_type
        generation.load_tokenizer(job.model)
    except (OSError, ValueError, SafetensorError) as error:  # what the libraries raise for files they cannot read
        raise ArtifactError(f"{job.model} cannot be loaded: {error}") from error
    return f"{kind}, {units.count(parameters)} parameters, with a tokenizer"


def _parameters(job: RLJob) -> int:
    """From the headers of the model's files."""
    total = 0
    for file in job.model.glob("*.safetensors"):
        with safe_open(file, "numpy") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def prompts(job: RLJob, asked: Sequence[Question]) -> str:
    prepared = prepare(job.recipe, asked, generation.load_tokenizer(job.model))
    return (
        f"{prepared.kept} of at most {job.recipe.max_prompt_tokens} tokens, {prepared.dropped} longer ones dropped; "
        f"{len(prepared.sequence) / prepared.kept:.2f} epochs in {job.recipe.train_steps} steps"
    )


def evaluation(job: RLJob) -> str:
    """Their prompts are not dropped, however long."""
    recipe, tokenizer = job.recipe, generation.load_tokenizer(job.model)
    text = templates.load(recipe.template, recipe.template_file)
    said = []
    for name, file in job.eval_sets.items():
        asked = questions.read(file)
        tokens = [len(generation.prompt_ids(tokenizer, templates.render(text, each.question))) for each in asked]
        if max(tokens) >= recipe.longest_sequence_tokens:
            raise CorpusError(
                f"question {tokens.index(max(tokens)) + 1} of {name} ({file}) takes {max(tokens)} of the "
                f"{recipe.longest_sequence_tokens} tokens of prompt and response; take it out, or raise max_prompt_tokens"
            )
        longer = sum(each > recipe.max_prompt_tokens for each in tokens)
        said.append(f"{units.counted(len(asked), 'question')} of {name}, {longer} longer than max_prompt_tokens")
    return "; ".join(said) or "none"


def context(job: RLJob) -> str:
    positions = AutoConfig.from_pretrained(job.model, local_files_only=True).max_position_embeddings
    check_context(job.recipe, positions)
    return f"{job.recipe.longest_sequence_tokens} of the model's {positions} positions"


def disk(job: RLJob, out: Path) -> str:
    engine, models = job.recipe.engine, 2 if job.recipe.critic else 1
    # One more than stay: the next is complete before the oldest goes.
    checkpoints = CHECKPOINT_BYTES[engine] * models * (job.recipe.keep_checkpoints + 1)
    needed = _parameters(job) * (checkpoints + MODEL_BYTES[engine])
    free = artifacts.free_bytes(out)
    if needed > free:
        raise ResourceError(
            f"checkpoints need {units.bytes_(needed)}, {units.bytes_(free)} are free where {out} is; lower keep_checkpoints"
        )
    return f"{units.bytes_(needed)} needed, {units.bytes_(free)} free"


def pass_rate(job: RLJob, asked: Sequence[Question], probe: int) -> str:
    """Of the first prompts of the run."""
    recipe, tokenizer = job.recipe, generation.load_tokenizer(job.model)
    prepared = prepare(recipe, asked, tokenizer)
    first = prepared.sequence[: min(probe, prepared.kept)]
    tried = [prompt for prompt in first for _ in range(recipe.samples_per_prompt)]
    device, dtype = generation.device_and_dtype()
    cap = recipe.max_response_tokens(0)
    responses = generation.generate(
        generation.load_model(job.model, dtype, device),
        tokenizer,
        [prompt.text for prompt in tried],
        max_new_tokens=cap,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        batch_size=job.generation_batch_responses or PROBE_BATCH,
        stop_strings=recipe.stop_strings,
        seed=recipe.seed,
    )
    scores = score_all(
        Scorer(recipe.reward),
        [each.text for each in responses],
        [each.answer for each in tried],
        tokens=[len(each.token_ids) for each in responses],
        finished=[each.finished for each in responses],
        cap=cap,
    )
    rate = sum(score.correct for score in scores) / len(scores)
    cut = sum(not each.finished for each in responses) / len(responses)
    said = f"{rate:.3f} over {units.counted(len(first), 'prompt')} x {recipe.samples_per_prompt}, {cut:.0%} cut off at {cap} tokens"
    if rate in (0, 1):
        raise OctoError(
            f"{said}: nothing to compare within a group; take another template, easier or harder prompts, a larger cap or another model"
        )
    return said
