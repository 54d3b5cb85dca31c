"""The texts of `list` and `show`: a recipe's resolved config and what follows from it on a given machine.

Arithmetic only: answers in a fraction of a second on a laptop without torch.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from megatron_octo.config import to_yaml
from megatron_octo.errors import ConfigError
from megatron_octo.launch.explain import training
from megatron_octo.launch.explain.columns import Row, hours, rows, section
from megatron_octo.recipes import corpora
from megatron_octo.recipes.octothinker import PLOTTED_STEPS_PER_STEP
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.training import estimate
from megatron_octo.training.config import MidTraining
from megatron_octo.units import bytes_, count, counted

#: Measured on one core of a Sapphire Rapids, JSONL to shuffled shards, 128k vocabulary (docs/measurements.md).
TOKENS_PER_SECOND_AND_CORE = 20e6
INT32_BYTES = 4


def describe_list(recipes: Mapping[str, str]) -> str:
    """The text of `list`: recipe names with their one-line descriptions, one block per module."""
    blocks = []
    for _, group in groupby(recipes.items(), key=lambda item: item[0].partition(".")[0]):
        rows = list(group)
        width = max(len(name) for name, _ in rows)
        blocks.append("\n".join(f"{name:<{width}}  {description}".rstrip() for name, description in rows))
    return "\n\n".join(blocks)


def explain(config: Any, *, nodes: int, gpus_per_node: int, throughput: float | None = None) -> str:
    """The text of `show`: the resolved config as YAML, then what follows from it.

    Args:
        throughput: tokens per second and GPU; None takes a derived one, whose origin is printed.

    Raises `ConfigError` when the config's layout or batch does not divide over the ranks; the message names the machine assumed.
    """
    if nodes < 1 or gpus_per_node < 1:
        raise ConfigError(f"{nodes} nodes with {gpus_per_node} GPUs each are no place to run; both must be at least 1")
    if throughput is not None and throughput <= 0:
        raise ConfigError(f"a throughput of {throughput:g} tokens per second and GPU; it must be above 0")
    sections = [section("resolved config", to_yaml(config).splitlines())]
    if isinstance(config, MidTraining):
        try:
            sections += training.mid_training(config, nodes, gpus_per_node, throughput)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; show assumes --nodes {nodes} --gpus-per-node {gpus_per_node}, name your machine with these two"
            ) from error
    elif isinstance(config, ReinforcementLearning):
        sections += _reinforcement_learning(config, nodes, gpus_per_node, throughput)
    elif isinstance(config, Tokenization):
        sections += [section("shards", rows(_shard_rows(config)))]
    return "\n\n".join(sections)


def _reinforcement_learning(
    config: ReinforcementLearning, nodes: int, gpus_per_node: int, throughput: float | None
) -> list[str]:
    world_size = nodes * gpus_per_node
    return [
        section("run", rows(_rl_run_rows(config))),
        section("response length", _length_lines(config)),
        section("time", rows(_rl_time_rows(config, world_size, throughput))),
    ]


def _rl_run_rows(config: ReinforcementLearning) -> list[Row]:
    samples = config.prompts_per_step * config.samples_per_prompt
    updates = config.prompts_per_step // config.mini_batch_prompts
    evaluations = 1 + config.train_steps // config.eval_interval
    return [
        ("starts from", config.init_from),
        ("samples per step", f"{samples:,} = {config.prompts_per_step} prompts x {config.samples_per_prompt}"),
        ("updates per step", f"{updates} of {config.mini_batch_prompts} prompts"),
        ("steps", f"{config.train_steps:,} = {config.train_steps * updates:,} updates"),
        (
            "on the paper's plots",
            f"{config.train_steps * PLOTTED_STEPS_PER_STEP:,} steps: they show twice the batch count",
        ),
        ("rollouts", f"{config.train_steps * samples:,} on {config.train_steps * config.prompts_per_step:,} prompts"),
        (
            "evaluations",
            f"{evaluations:,}, every {config.eval_interval} steps from step 0, on {len(config.eval_sets)} sets",
        ),
    ]


def _length_lines(config: ReinforcementLearning) -> list[str]:
    return [
        f"{'from step':>9}{'plotted':>9}{'tokens at most':>16}",
        *(
            f"{stage.from_step:>9,}{stage.from_step * PLOTTED_STEPS_PER_STEP:>9,}{stage.max_response_tokens:>16,}"
            for stage in config.length_schedule
        ),
    ]


def _rl_time_rows(config: ReinforcementLearning, world_size: int, throughput: float | None) -> list[Row]:
    samples = config.prompts_per_step * config.samples_per_prompt
    caps = sum(config.max_response_tokens(step) for step in range(config.train_steps))
    rows = [("response tokens", f"at most {count(caps * samples)}, every answer at its cap")]
    if throughput is None:
        return [*rows, ("wall time", "depends on how long the answers get; a stated throughput gives a bound")]
    gpu_hours = estimate.gpu_hours(caps * samples, throughput)
    return [
        *rows,
        ("throughput", f"{throughput:,.0f} tokens/s/GPU, stated"),
        ("wall time", f"at most {hours(gpu_hours / world_size)} on {counted(world_size, 'GPU')}"),
    ]


def _shard_rows(config: Tokenization) -> list[Row]:
    tokens = corpora.tokens(config.corpus)
    if tokens is None:
        return [("tokens", f"no published size of '{config.corpus}' is known")]
    size = tokens * INT32_BYTES
    twice = (
        "" if config.shuffle_seed is None else f", and as much again until the shuffle has ended: {bytes_(2 * size)}"
    )
    hours = tokens / TOKENS_PER_SECOND_AND_CORE / 3600
    return [
        ("tokens", f"{count(tokens)}, as published; tokenizers differ"),
        ("disk", f"{bytes_(size)} as int32{twice}"),
        ("core-hours", f"{hours:.1f} at {count(TOKENS_PER_SECOND_AND_CORE)} tokens/s and core (docs/measurements.md)"),
    ]
