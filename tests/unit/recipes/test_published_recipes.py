"""The published numbers, once more as literals: what the recipes compute must be what the paper prints."""

import math
from typing import Any

import pytest

from megatron_octo import recipes
from megatron_octo.config import from_dict, to_dict
from megatron_octo.recipes import corpora
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.training.config import MidTraining, OptimizerState

MODELS = ("llama32_1b", "llama32_3b", "llama31_8b")


def weights(name: str) -> dict[str, float]:
    return {share.corpus: share.weight for share in recipes.load(name).blend.shares}


def test_configs_carry_their_recipes_name() -> None:
    for name in recipes.names():
        if not name.startswith(
            ("tiny.", "text.", "published.", "megamath_web.")
        ):  # the tiny study's names are those of its directories
            assert recipes.load(name).name == name


def test_texts_carry_the_names_of_corpora() -> None:
    names = [name for name in recipes.names() if name.startswith("text.")]
    assert len(names) == 7
    for name in names:
        assert f"text.{recipes.load(name).corpus}" == name
        assert recipes.load(name).corpus in corpora.CORPORA


def published(kind: type) -> list[Any]:
    """Configs of one kind, all but the tiny study's."""
    configs = [recipes.load(name) for name in recipes.names() if not name.startswith("tiny.")]
    return [config for config in configs if isinstance(config, kind)]


@pytest.mark.parametrize(
    ("model", "rate", "floor"),
    [("llama32_1b", 5e-5, 5e-6), ("llama32_3b", 2e-5, 2e-6), ("llama31_8b", 1e-5, 1e-6)],
)
def test_learning_rates(model: str, rate: float, floor: float) -> None:
    stable, decay = recipes.load(f"{model}.stable"), recipes.load(f"{model}.decay_short")
    assert (stable.schedule.style.value, stable.schedule.peak_lr, stable.schedule.min_lr) == ("constant", rate, rate)
    assert (decay.schedule.style.value, decay.schedule.peak_lr, decay.schedule.min_lr) == ("cosine", rate, floor)


@pytest.mark.parametrize("model", MODELS)
def test_budgets_and_branches(model: str) -> None:
    stable, decay = recipes.load(f"{model}.stable"), recipes.load(f"{model}.decay_hybrid")
    assert (stable.train_iters, stable.trained_tokens) == (50_000, 209_715_200_000)
    assert (decay.train_iters, decay.trained_tokens) == (5_000, 20_971_520_000)
    assert stable.tokens_per_step == 4_194_304
    assert decay.branch_point.parent == f"{model}.stable"
    assert decay.branch_point.at_tokens == 209_715_200_000
    assert decay.branch_point.optimizer_state is OptimizerState.CARRY


def test_blends() -> None:
    assert weights("llama32_1b.stable") == {
        "megamath_web_pro_max": 0.725,
        "dclm_baseline": 0.1,
        "megamath_text_code_block": 0.1,
        "megamath_qa": 0.05,
        "megamath_code": 0.0125,
        "megamath_translated_code": 0.0125,
    }
    common = {"dclm_baseline": 0.05, "instruction": 0.1, "megamath_web_pro": 0.55}
    assert weights("llama31_8b.decay_long") == common | {"openr1_math_220k": 0.15, "am_deepseek_distilled_40m": 0.15}
    assert weights("llama32_3b.decay_short") == common | {
        "openmathinstruct2": 0.175,
        "numinamath_1_5": 0.1,
        "megamath_qa": 0.025,
    }
    assert weights("llama32_1b.decay_hybrid") == common | {
        "openr1_math_220k": 0.1,
        "openmathinstruct2": 0.1,
        "numinamath_1_5": 0.1,
    }


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        ("web_fm4p", 4768, {"finemath_4plus": 1.0}),
        ("qa_long", 4768, {"megamath_web_pro": 0.9, "openr1_math_220k": 0.1}),
        ("qa_short_instruct", 4768, {"instruction": 0.01, "megamath_web_pro": 0.89, "megamath_qa": 0.1}),
        ("budget_100b", 23842, {"megamath_web_pro_max": 1.0}),
        (
            "decay_omi2_40",
            2384,
            {"dclm_baseline": 0.05, "instruction": 0.1, "megamath_web_pro": 0.45, "openmathinstruct2": 0.4},
        ),
        (
            "mix_openr1_10_omi2_20",
            2384,
            {
                "dclm_baseline": 0.05,
                "instruction": 0.1,
                "megamath_web_pro": 0.55,
                "openr1_math_220k": 0.1,
                "openmathinstruct2": 0.2,
            },
        ),
    ],
)
def test_ablations(name: str, steps: int, expected: dict[str, float]) -> None:
    config = recipes.load(f"ablations.{name}")
    assert config.train_iters == steps
    assert weights(f"ablations.{name}") == expected


def test_controlled_runs_go_from_3e_5_to_a_tenth() -> None:
    schedule = recipes.load("ablations.web_pro").schedule
    assert (schedule.peak_lr, schedule.min_lr, schedule.warmup_tokens) == (3e-5, 3e-6, 0)


@pytest.mark.parametrize("qa", ["megamath_qa", "omi2", "openr1"])
@pytest.mark.parametrize("percent", [10, 20, 30, 40])
def test_pilots_have_their_share_of_qa_and_leave_at_a_checkpoint(qa: str, percent: int) -> None:
    config = recipes.load(f"ablations.decay_{qa}_{percent}")
    shares = [share.weight for share in config.blend.shares]
    assert shares == pytest.approx([0.05, 0.10, 0.85 - percent / 100, percent / 100])
    steps, rest = divmod(config.branch_point.at_tokens, 4_194_304)
    assert (steps, rest) == (31_000, 0)
    assert steps % recipes.load("llama32_3b.stable").save_interval == 0


def test_the_budget_run_keeps_the_checkpoints_that_were_compared() -> None:
    config = recipes.load("ablations.budget_100b")
    for tokens in (20e9, 70e9, 100e9):
        nearest_step = round(tokens / config.tokens_per_step / config.save_interval) * config.save_interval
        assert abs(nearest_step * config.tokens_per_step - tokens) < 0.001 * tokens
    assert config.keep_checkpoints >= math.ceil(config.train_iters / config.save_interval)


@pytest.mark.parametrize("config", published(ReinforcementLearning), ids=lambda config: config.name)
def test_rl_settings_of_the_paper(config: ReinforcementLearning) -> None:
    assert (config.prompts_per_step, config.samples_per_prompt, config.mini_batch_prompts) == (128, 16, 64)
    assert (config.learning_rate, config.kl_coef, config.temperature) == (1e-6, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "template", "steps", "caps"),
    [
        ("llama32_3b.rl_long", "structured", 200, [(0, 2048), (100, 4096), (160, 8192)]),
        ("llama32_3b.rl_hybrid", "structured", 200, [(0, 4096)]),
        ("llama32_1b.rl_short", "structured", 200, [(0, 4096)]),
        ("llama32_3b.rl_base", "simple", 200, [(0, 4096)]),
        ("ablations_rl.qa_long", "simple", 100, [(0, 8192)]),
        ("ablations_rl.template_structured", "structured", 100, [(0, 8192)]),
        ("ablations_rl.length_schedule", "structured", 200, [(0, 2048), (100, 4096)]),
        ("ablations_rl.decay_omi2_20", "simple", 200, [(0, 4096)]),
        ("ablations_rl.decay_openr1_20", "structured", 100, [(0, 8192)]),
        ("ablations_rl.mix_openr1_15_omi2_15", "structured", 200, [(0, 4096), (100, 8192)]),
    ],
)
def test_rl_stages(name: str, template: str, steps: int, caps: list[tuple[int, int]]) -> None:
    config = recipes.load(name)
    assert (config.template.value, config.train_steps) == (template, steps)
    assert [(stage.from_step, stage.max_response_tokens) for stage in config.length_schedule] == caps


@pytest.mark.parametrize("config", published(ReinforcementLearning), ids=lambda config: config.name)
def test_rl_starts_from_a_recipe_or_a_model_of_the_hub(config: ReinforcementLearning) -> None:
    assert config.init_from in recipes.names() or config.init_from.count("/") == 1


@pytest.mark.parametrize("config", published(MidTraining), ids=lambda config: config.name)
def test_every_corpus_is_described(config: MidTraining) -> None:
    assert {share.corpus for share in config.blend.shares} <= corpora.CORPORA.keys()


@pytest.mark.parametrize("config", published(object), ids=repr)
def test_every_config_survives_json(config: Any) -> None:
    assert from_dict(type(config), to_dict(config)) == config


def test_sizes_of_corpora() -> None:
    assert corpora.tokens("megamath_web_pro_max") == 73_800_000_000
    assert corpora.tokens("openr1_math_220k") is None
    assert corpora.tokens("a_corpus_of_mine") is None
