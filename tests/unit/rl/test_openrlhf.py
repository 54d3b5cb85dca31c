"""Every RL recipe as OpenRLHF's command lines, put before the real parser and the real checks of the installed wheel."""

import dataclasses
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from rl_recipes import on_openrlhf

from megatron_octo import recipes
from megatron_octo.config import override
from megatron_octo.errors import ConfigError
from megatron_octo.rl import openrlhf, openrlhf_parser
from megatron_octo.rl.config import (
    Algorithm,
    Critic,
    Engine,
    KLForm,
    LengthStage,
    Loss,
    MismatchCorrection,
    ReinforcementLearning,
)
from megatron_octo.rl.openrlhf import Files, Stage
from megatron_octo.rl.placement import Colocation, Placement, SyncBackend

FILES = Files(
    model=Path("/run/model"), prompts=Path("/run/prompts-0.jsonl"), eval_sets=Path("/run/eval.jsonl"), agent=Path("/run/agent.py"),
    checkpoints=Path("/run/checkpoints"), output=Path("/run/output"), tensorboard=Path("/run/tensorboard"),
)  # fmt: skip


def published() -> list[ReinforcementLearning]:
    loaded = [recipes.load(name) for name in recipes.names()]
    return [each for each in loaded if isinstance(each, ReinforcementLearning) and each.engine is Engine.OPENRLHF]


def parsed(config: ReinforcementLearning, files: Files = FILES, stage: int = 0) -> Any:
    words = openrlhf.argv(config, openrlhf.stages(config)[stage], files, resume=stage > 0)
    return openrlhf_parser.parse(words)


def values(args: Any, *names: str) -> tuple[Any, ...]:
    return tuple(reduce(getattr, name.split("."), args) for name in names)


def test_the_wheel_is_the_version_the_options_are_of() -> None:
    assert openrlhf_parser.installed() == "0.11.2"


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
@pytest.mark.parametrize("config", published(), ids=lambda config: config.name)
def test_every_recipe_is_accepted_on_any_number_of_nodes(config: ReinforcementLearning, nodes: int) -> None:
    placed = override(config, [f"placement.nodes={nodes}"])
    for stage in openrlhf.stages(placed):
        args = parsed(placed, stage=stage.number)
        assert values(args, "actor.num_nodes", "actor.num_gpus_per_node", "vllm.num_engines") == (nodes, 8, 8 * nodes)
        assert values(args, "rollout.max_new_tokens", "ckpt.load_enable") == (stage.cap, stage.number > 0)


def test_there_are_recipes() -> None:
    assert len(published()) >= 35


def test_stages_follow_the_length_schedule_up_to_the_last_step() -> None:
    assert openrlhf.stages(recipes.load("llama32_3b.rl_long")) == [
        Stage(number=0, first_step=0, end_step=100, cap=2048),
        Stage(number=1, first_step=100, end_step=160, cap=4096),
        Stage(number=2, first_step=160, end_step=200, cap=8192),
    ]
    assert openrlhf.stages(on_openrlhf(train_steps=50)) == [Stage(number=0, first_step=0, end_step=50, cap=2048)]


def test_the_papers_settings_arrive() -> None:
    args = parsed(recipes.load("llama32_3b.rl_long"), stage=1)
    expected = {
        "actor.model_name_or_path": "/run/model", "data.prompt_dataset": "/run/prompts-0.jsonl", "data.input_key": "input",
        "data.label_key": "label", "data.input_template": None, "data.apply_chat_template": False, "data.max_len": 400 + 8192,
        "rollout.max_new_tokens": 4096, "rollout.batch_size": 128, "rollout.n_samples_per_prompt": 16, "train.batch_size": 1024,
        "rollout.temperature": 1.0, "rollout.top_p": 1.0, "train.num_episodes": 1, "train.max_epochs": 1, "train.seed": 1234,
        "train.agent_func_path": "/run/agent.py", "reward.remote_url": ["agent"], "reward.overlong_buffer_len": None,
        "actor.adam.lr": 1e-6, "actor.lr_scheduler": "constant", "actor.lr_warmup_ratio": 0.0, "actor.max_norm": 1.0,
        "actor.eps_clip_low_high": [0.2, 0.2], "actor.entropy_coef": 0.0, "algo.kl.init_coef": 0.0, "algo.kl.use_loss": False,
        "algo.advantage.estimator": "group_norm", "algo.dynamic_filtering_enable": False, "critic.model_name_or_path": None,
        "eval.dataset": "/run/eval.jsonl", "eval.split": "train", "eval.steps": 4, "eval.temperature": 0.0,
        "eval.n_samples_per_prompt": 1, "ckpt.path": "/run/checkpoints", "ckpt.output_dir": "/run/output", "ckpt.save_steps": 10,
        "ckpt.max_num": 3, "ckpt.load_enable": True, "ckpt.best_metric_key": "none", "logger.tensorboard_dir": "/run/tensorboard",
        "logger.wandb.run_name": "openrlhf", "ds.zero_stage": 2, "ds.param_dtype": "bf16", "ds.packing_samples": True,
        "ds.attn_implementation": "flash_attention_2", "train.dynamic_batch_enable": True, "train.max_tokens_per_gpu": 16384,
        "rollout.max_tokens_per_gpu": 16384, "train.colocate_all": True, "vllm.enable_sleep": True, "ds.enable_sleep": True,
        "vllm.gpu_memory_utilization": 0.7, "vllm.sync_backend": "nccl", "actor.gradient_checkpointing_enable": True,
    }  # fmt: skip
    assert dict(zip(expected, values(args, *expected), strict=True)) == expected


def test_sampling() -> None:
    args = parsed(on_openrlhf(temperature=0.9, top_p=0.95))
    assert values(args, "rollout.temperature", "rollout.top_p") == (0.9, 0.95)


def test_no_evaluation_sets_no_evaluation() -> None:
    args = parsed(on_openrlhf(), dataclasses.replace(FILES, eval_sets=None))
    assert values(args, "eval.dataset", "eval.steps") == (None, -1)


@pytest.mark.parametrize(
    ("algorithm", "estimator"),
    [
        (Algorithm.GRPO, "group_norm"),
        (Algorithm.DR_GRPO, "dr_grpo"),
        (Algorithm.RLOO, "rloo"),
        (Algorithm.REINFORCE_PLUS_PLUS, "reinforce"),
        (Algorithm.REINFORCE_PLUS_PLUS_BASELINE, "reinforce_baseline"),
    ],
)
def test_algorithms_without_a_critic(algorithm: Algorithm, estimator: str) -> None:
    args = parsed(on_openrlhf(algorithm=algorithm))
    assert values(args, "algo.advantage.estimator", "critic.model_name_or_path") == (estimator, None)


def test_ppo_has_a_critic_that_may_warm_up() -> None:
    critic = Critic(learning_rate=5e-6, value_clip=0.3, gamma=0.99, gae_lambda=0.95, warmup_steps=10)
    args = parsed(on_openrlhf(algorithm=Algorithm.PPO, critic=critic))
    assert values(args, "algo.advantage.estimator", "algo.advantage.gamma", "algo.advantage.lambd") == (
        "gae",
        0.99,
        0.95,
    )
    assert values(args, "critic.model_name_or_path", "critic.adam.lr", "critic.value_clip") == ("/run/model", 5e-6, 0.3)
    # The policy trains where a step, counted from 0, is above this: from the eleventh on.
    assert args.critic.freezing_steps == 9
    assert values(args, "critic.num_nodes", "critic.num_gpus_per_node", "critic.lr_scheduler") == (1, 8, "constant")
    assert parsed(on_openrlhf(algorithm=Algorithm.PPO, critic=Critic())).critic.freezing_steps == -1


@pytest.mark.parametrize(
    ("loss", "mode"), [(Loss.TOKEN_MEAN, "token-mean"), (Loss.SEQUENCE_MEAN, "seq-mean-token-mean")]
)
def test_losses(loss: Loss, mode: str) -> None:
    assert parsed(on_openrlhf(loss=loss)).actor.loss_agg_mode == mode


@pytest.mark.parametrize(
    ("coefficient", "form", "in_loss", "estimator"),
    [
        (0.0, KLForm.LOSS, False, "k1"),
        (0.0, KLForm.REWARD, False, "k1"),
        (0.01, KLForm.LOSS, True, "k3"),
        (0.01, KLForm.REWARD, False, "k1"),
    ],
)
def test_kl(coefficient: float, form: KLForm, in_loss: bool, estimator: str) -> None:
    kl = parsed(on_openrlhf(kl_coef=coefficient, kl_form=form)).algo.kl
    assert (kl.init_coef, kl.use_loss, kl.estimator) == (coefficient, in_loss, estimator)


def test_dapo() -> None:
    one_cap = (LengthStage(from_step=0, max_response_tokens=2048),)
    args = parsed(on_openrlhf(clip_epsilon_high=0.28, dynamic_sampling=True, length_schedule=one_cap))
    assert args.actor.eps_clip_low_high == [0.2, 0.28]
    assert values(args, "algo.dynamic_filtering_enable", "algo.dynamic_filtering_range") == (True, [0.0, 1.0])


@pytest.mark.parametrize(
    ("correction", "level", "mode"),
    [
        (MismatchCorrection.TRUNCATED, "token", "clip"),
        (MismatchCorrection.MASKED, "token", "mask"),
        (MismatchCorrection.OFF, "off", "mask"),  # mask is the parser's default, and means nothing at level off
    ],
)
def test_mismatch_corrections(correction: MismatchCorrection, level: str, mode: str) -> None:
    advantage = parsed(on_openrlhf(mismatch_correction=correction)).algo.advantage
    assert (advantage.is_correction_level, advantage.is_correction_mode) == (level, mode)
    assert advantage.is_correction_threshold == [0.5, 5.0]


ROLES = (
    "train.colocate_all", "train.colocate_actor_ref", "vllm.enable_sleep", "ds.enable_sleep",
    "actor.num_nodes", "actor.num_gpus_per_node", "ref.num_nodes", "ref.num_gpus_per_node", "vllm.num_engines",
)  # fmt: skip


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (Placement(nodes=2, engine_tensor_parallel_size=4), (True, False, True, True, 2, 8, 2, 8, 4)),
        (
            Placement(nodes=4, colocation=Colocation.ACTOR_REF, rollout_gpus=16, engine_tensor_parallel_size=2),
            (False, True, False, False, 2, 8, 2, 8, 8),
        ),
        (Placement(colocation=Colocation.NONE, rollout_gpus=4), (False, False, False, False, 1, 2, 1, 2, 4)),
    ],
    ids=lambda placement: getattr(placement, "nodes", ""),
)
def test_colocation_with_a_reference(placement: Placement, expected: tuple[Any, ...]) -> None:
    assert values(parsed(on_openrlhf(kl_coef=0.01, placement=placement)), *ROLES) == expected


def test_without_kl_no_gpus_go_to_a_reference() -> None:
    words = openrlhf.argv(
        on_openrlhf(placement=Placement(colocation=Colocation.NONE, rollout_gpus=4)),
        openrlhf.stages(on_openrlhf())[0], FILES, resume=False,
    )  # fmt: skip
    assert not [word for word in words if word.startswith("--ref.")]
    assert words[words.index("--actor.num_gpus_per_node") + 1] == "4"


def test_asynchronous_runs() -> None:
    placement = Placement(
        colocation=Colocation.ACTOR_REF, rollout_gpus=4, asynchronous=True, async_queue_size=2, sync_backend=SyncBackend.GLOO,
    )  # fmt: skip
    args = parsed(on_openrlhf(placement=placement))
    assert values(args, "train.async_enable", "train.async_queue_size", "vllm.sync_backend") == (True, 2, "gloo")


def test_micro_batches_of_a_number_of_responses() -> None:
    placement = Placement(
        packing=False, attention="sdpa", max_tokens_per_gpu=None, micro_batch_responses=4, zero_stage=3, adam_offload=True,
        gradient_checkpointing=False, enforce_eager=True, enable_prefix_caching=True,
    )  # fmt: skip
    args = parsed(on_openrlhf(placement=placement))
    assert values(args, "train.micro_batch_size", "rollout.micro_batch_size", "train.dynamic_batch_enable") == (
        4, 4, False,
    )  # fmt: skip
    assert values(args, "ds.packing_samples", "ds.attn_implementation", "ds.zero_stage", "ds.adam_offload") == (
        False, "sdpa", 3, True,
    )  # fmt: skip
    assert values(args, "actor.gradient_checkpointing_enable", "vllm.enforce_eager", "vllm.enable_prefix_caching") == (
        False, True, True,
    )  # fmt: skip


def test_ring_attention() -> None:
    assert parsed(on_openrlhf(placement=Placement(ring_attention_size=2))).ds.ring_attn_size == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # 12 GPUs train; OpenRLHF would train on 85 of each GPU's 85.3 responses.
        (
            {"placement": Placement(gpus_per_node=16, colocation=Colocation.ACTOR_REF, rollout_gpus=4)},
            "64 x 16 responses does not divide over 12",
        ),
        ({"placement": Placement(max_tokens_per_gpu=None, micro_batch_responses=3)}, "3 at a time"),
        (
            {"placement": Placement(ring_attention_size=2, max_tokens_per_gpu=None, micro_batch_responses=3)},
            "8 GPUs in rings of 2, 3 at a time",
        ),
    ],
)
def test_batches_that_do_not_divide_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(on_openrlhf(**changes))


def test_a_recipe_of_trl_is_refused() -> None:
    config = on_openrlhf(engine=Engine.TRL, placement=None)
    with pytest.raises(ConfigError, match="engine=trl; set engine=openrlhf"):
        parsed(config)


def test_a_later_stage_needs_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match="cap 4096 goes on from step 100"):
        openrlhf.argv(on_openrlhf(), openrlhf.stages(on_openrlhf())[1], FILES, resume=False)


def test_paths_that_openrlhf_would_split_are_refused() -> None:
    with pytest.raises(ConfigError, match="splits the names of data files"):
        parsed(on_openrlhf(), dataclasses.replace(FILES, prompts=Path("/run/a,b.jsonl")))


def test_the_command_starts_the_module() -> None:
    words = openrlhf.command(on_openrlhf(), openrlhf.stages(on_openrlhf())[0], FILES, resume=False)
    assert words[1:5] == ["-m", "openrlhf.cli.train_ppo_ray", "--actor.model_name_or_path", "/run/model"]


def good() -> list[str]:
    return openrlhf.argv(on_openrlhf(), openrlhf.stages(on_openrlhf())[0], FILES, resume=False)


def without(words: list[str], option: str) -> list[str]:
    place = words.index(option)
    return words[:place] + words[place + 2 :]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--advantage_estimator", "gae"], "unrecognized arguments: --advantage_estimator gae"),  # the names before 0.10.2
        (["--algo.kl.init", "0"], "unrecognized arguments: --algo.kl.init 0"),  # argparse alone takes abbreviations
        (["--algo.kl.init=0"], "unrecognized arguments: --algo.kl.init=0"),
        (["--algo.advantage.estimator", "grpo"], "invalid choice: 'grpo'"),
        (["--rollout.batch_size", "many"], "invalid int value: 'many'"),
        (["--rollout.n_samples_per_prompt", "1"], "group_norm requires n_samples_per_prompt > 1"),
        (["--actor.num_nodes", "1000"], "number of sample batches must be greater"),
        (["--train.async_enable"], "Async RLHF is not supported with --vllm.enable_sleep"),
        (["--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", "1", "0"], "must be less than"),
        (["--ds.attn_implementation", "sdpa"], "would not do what the command says.*attn_implementation"),
    ],
)  # fmt: skip
def test_wrong_command_lines_are_refused_in_openrlhfs_words(words: list[str], message: str) -> None:
    openrlhf_parser.check(good())
    with pytest.raises(ConfigError, match=message):
        openrlhf_parser.check(good() + words)


def test_packing_without_engines_is_refused() -> None:
    with pytest.raises(ConfigError, match="refuses the command"):
        openrlhf_parser.check(without(good(), "--vllm.num_engines"))
