"""The texts of `list` and `show`."""

import dataclasses

import pytest
import yaml

from megatron_octo import recipes
from megatron_octo.errors import ConfigError
from megatron_octo.launch.explain.show import describe_list, explain
from megatron_octo.training.blend import blend
from megatron_octo.training.config import Anomalies, MidTraining, RunOptions, Validation
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Fp8, Fp8Format, Fp8Recipe, Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity
from megatron_octo.training.schedule import LearningRateStyle, Schedule


def line_of(text: str, label: str) -> str:
    """The value printed beside a label; the label must be there exactly once."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(label)]
    return line.strip().removeprefix(label).strip()


def show(name: str, *, throughput: float | None = None) -> str:
    return explain(recipes.load(name), nodes=8, gpus_per_node=8, throughput=throughput)


def test_list_has_one_aligned_line_per_recipe() -> None:
    text = describe_list({"a.x": "First.", "a.long": "Second.", "b.y": "Third."})
    assert text == "a.x     First.\na.long  Second.\n\nb.y  Third."


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("starts from", "llama32_3b.stable after 210B tokens, with its optimizer state"),
        ("tokens per step", "4,194,304 = 512 sequences x 8,192"),
        ("steps  ", "5,000 = 20,971,520,000 tokens"),
        ("learning rate, cosine", "2e-05     at step 0 (0 tokens)"),
        ("4.64e-06", "at step 3,750 (15.7B tokens)"),
        ("instruction ", "10 %     2.1B     800M     2.62"),
        ("openr1_math_220k ", "15 %    3.15B  unknown  unknown"),
        ("shards to read", "78.7 GB: 4 bytes a token, repeats once"),
        ("parameters", "3,212,749,824 (tied embeddings)"),
        ("FLOPs per token", "23.50 G at 8,192 tokens, forward and backward"),
        ("ranks per axis", "TP 1 x PP 1 x CP 1 x DP 64"),
        ("micro-batches", "8 per rank and step, 1 sequence each"),
        ("left out", "not finite, or 10 x the median of 128 norms; 11 of them end the run"),
        ("attention", "over the whole window"),
        ("precision ", "bf16"),
        ("recomputed backward", "nothing"),
        ("optimizer per GPU", "602 MB (Adam in fp32, over 64 ranks)"),
        ("activations per GPU", "36.8 GB at the loss, modules of Transformer Engine, not measured:"),
        ("layers 30.3 GB", ", output 4.3 GB, temporary 2.15 GB"),
        ("one checkpoint", "45 GB"),
        ("throughput", "16,838 tokens/s/GPU, derived, not measured: 40% of an H100's 989 TFLOP/s;"),
        ("wall time", "5h24m on 64 GPUs = 346 GPU-hours"),
    ],
)
def test_what_follows_from_a_decay_branch(label: str, value: str) -> None:
    assert line_of(show("llama32_3b.decay_long"), label) == value


def test_the_config_is_printed_as_yaml() -> None:
    block = show("llama32_3b.decay_long").partition("\n\nrun\n")[0].removeprefix("resolved config\n")
    assert yaml.safe_load(block)["blend"]["shares"][2] == {
        "corpus": "megamath_web_pro",
        "weight": 0.55,
        "max_epochs": None,
    }


def test_a_stated_throughput_is_used_and_said_so() -> None:
    text = show("llama32_3b.stable", throughput=20_000)
    assert line_of(text, "throughput") == "20,000 tokens/s/GPU, stated"
    assert line_of(text, "wall time") == "45h30m on 64 GPUs = 2,913 GPU-hours"


def test_tensor_parallel_layout_and_long_runs() -> None:
    text = show("llama31_8b.stable")
    assert line_of(text, "ranks per axis") == "TP 2 x PP 1 x CP 1 x DP 32"
    assert line_of(text, "wall time") == "4.9 days on 64 GPUs = 7,576 GPU-hours"


def test_the_environment_of_its_gpus() -> None:
    title = "environment on GPUs, where nothing else is set\n"
    lines = show("llama31_8b.stable").partition(title)[2].partition("\n\n")[0].splitlines()
    assert [line.strip() for line in lines[::2]] == [
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "CUDA_DEVICE_MAX_CONNECTIONS=1, on Blackwell 32",
        "NVTE_FWD_LAYERNORM_SM_MARGIN=20",
        "NVTE_BWD_LAYERNORM_SM_MARGIN=20",
    ]
    assert lines[3].strip() == "kernels start as called: a collective before the product that hides it"


def test_many_epochs_are_flagged() -> None:
    recipe = recipes.load("ablations.web_fm4p")
    assert "more than" not in explain(recipe, nodes=1, gpus_per_node=8)
    longer = dataclasses.replace(recipe, train_tokens=40_000_000_000)
    assert line_of(explain(longer, nodes=1, gpus_per_node=8), "finemath_4plus ").endswith("4.17  more than 4 epochs")


def test_fp32_has_no_derived_throughput() -> None:
    recipe = dataclasses.replace(recipes.load("llama32_1b.stable"), precision=Precision.FP32)
    text = explain(recipe, nodes=1, gpus_per_node=8)
    assert line_of(text, "wall time") == "unknown in fp32; state a throughput in tokens per second and GPU"


def test_warmup_is_a_knot() -> None:
    recipe = recipes.load("llama32_1b.decay_long")
    schedule = Schedule(
        style=recipe.schedule.style, peak_lr=5e-5, min_lr=5e-6, warmup_tokens=500 * recipe.tokens_per_step
    )
    text = explain(dataclasses.replace(recipe, schedule=schedule), nodes=1, gpus_per_node=8)
    assert "0         at step 0" in text
    assert "5e-05     at step 500 (2.1B tokens)" in text


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("starts from", "llama32_3b.decay_long"),
        ("samples per step", "2,048 = 128 prompts x 16"),
        ("updates per step", "2 of 64 prompts"),
        ("steps", "200 = 400 updates"),
        ("on the paper's plots", "400 steps: they show twice the batch count"),
        ("rollouts", "409,600 on 25,600 prompts"),
        ("evaluations", "51, every 4 steps from step 0, on 4 sets"),
        ("160", "320           8,192"),
        # 2,048 rollouts x (100 x 2,048 + 60 x 4,096 + 40 x 8,192)
        ("response tokens", "at most 1.59B, every answer at its cap"),
    ],
)
def test_what_follows_from_an_rl_stage(label: str, value: str) -> None:
    assert line_of(show("llama32_3b.rl_long"), label) == value


def test_rl_time_is_a_bound() -> None:
    text = show("llama32_3b.rl_hybrid", throughput=1_581)
    assert line_of(text, "wall time") == "at most 4h36m on 64 GPUs"


def test_other_configs_are_printed_as_they_are() -> None:
    text = explain(RunOptions(wandb_project="octo"), nodes=1, gpus_per_node=1)
    assert text == "resolved config\n  async_save: true\n  watchdog_seconds: 600.0\n  wandb_project: octo"


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("learning rate, WSD", "0         at step 0 (0 tokens)"),
        ("1e-05     at step 2,500", "(10.5B tokens)"),
        ("minus_sqrt", "over the last 10.5B tokens"),
        ("checkpoints", "every 1,000 steps and at the end; the newest 3 stay, and one every 2,000 steps"),
        ("validation  ", "21M tokens every 1,000 steps, 5 times"),
        ("left out", "not finite, none for its norm; 1 of them end the run"),
        ("instruction ", "50 %    10.5B     800M    13.11  at most 4 allowed: refused"),
        ("attention", "within a document"),
        ("parameters", "3,212,893,184 (tied embeddings, query, key and value bias)"),
        ("ranks per axis", "TP 2 x PP 2 x CP 2 x DP 8, 2 model chunks each"),
        ("split and overlapped", "norms split along the sequence, stage messages behind compute"),
        ("precision ", "fp8 matrix products in bf16: blockwise scaling, e4m3"),
        ("recomputed backward", "all layers, 7 at a time"),
        ("optimizer per GPU", "676 MB (Adam in fp32, over 16 ranks)"),
        ("wall time", "unknown in fp8; state a throughput in tokens per second and GPU"),
    ],
)
def test_everything_a_phase_can_decide_is_said(label: str, value: str) -> None:
    assert line_of(explain(everything(), nodes=8, gpus_per_node=8), label) == value


def everything() -> MidTraining:
    """A phase in which nothing is as usual."""
    recipe: MidTraining = recipes.load("llama32_3b.decay_long")
    step = recipe.tokens_per_step
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, add_qkv_bias=True),
        blend=blend(instruction=0.5, dclm_baseline=0.5).capped(instruction=4),
        schedule=Schedule(
            style=LearningRateStyle.WSD, peak_lr=1e-5, min_lr=0.0, warmup_tokens=100 * step, wsd_decay_tokens=2_500 * step,
            wsd_decay_style=LearningRateStyle.MINUS_SQRT,
        ),
        keep_checkpoints=3,
        keep_every_tokens=2_000 * step,
        validation=Validation(blend=blend(mine=1.0), tokens=5 * step, interval_tokens=1_000 * step),
        anomalies=Anomalies(spike_factor=None, max_skipped_steps=0),
        reset_attention_mask=True,
        precision=Precision.FP8,
        fp8=Fp8(recipe=Fp8Recipe.BLOCKWISE, format=Fp8Format.E4M3),
        recompute=Recompute(granularity=RecomputeGranularity.FULL, num_layers=7),
        parallelism=Parallelism(
            tensor_model_parallel_size=2, pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2,
            context_parallel_size=2, sequence_parallel=True, overlap_p2p_comm=True,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in recipes.names() if not name.startswith("tiny.")])
def test_every_published_recipe_fits_100_columns(name: str) -> None:
    assert max(len(line) for line in show(name).splitlines()) <= 100
    assert len(describe_list({name: recipes.names()[name]})) <= 104


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0, "gpus_per_node": 8}, "0 nodes with 8 GPUs each"),
        ({"nodes": 1, "gpus_per_node": 8, "throughput": 0.0}, "a throughput of 0 tokens per second"),
        ({"nodes": 3, "gpus_per_node": 5}, "15 ranks do not divide into TP 2 x PP 1 x CP 1; use a multiple of 2"),
        ({"nodes": 3, "gpus_per_node": 8}, "global_batch_size 512 does not divide by micro_batch_size 1 x 12"),
        # What was assumed and how to change it.
        (
            {"nodes": 3, "gpus_per_node": 5},
            "show assumes --nodes 3 --gpus-per-node 5, name your machine with these two",
        ),
        ({"nodes": 3, "gpus_per_node": 8}, "= 12; show assumes --nodes 3 --gpus-per-node 8, name your machine with"),
    ],
)
def test_places_that_cannot_run_it(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain(recipes.load("llama31_8b.stable"), **arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)
