"""The figures of the OctoThinker paper (arXiv 2506.20512) as data: which runs a panel shows, under which name, and the numbers that
the authors' notebooks (GAIR-NLP/OctoThinker, plot/) state instead of logging. Values in, values out.

Steps. The exports count verl's steps and have every fourth. The notebooks ignore that column, plot the n-th evaluation at 8n and stop at
the fiftieth, so a step of the paper is two logged ones: its 400 is our 200. Everything here is in logged steps.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.errors import ArtifactError
from megatron_octo.plotting.curves import BENCHMARKS, Curve
from megatron_octo.plotting.intervals import Interval

#: Steps on the paper's axes per logged step.
PLOTTED_PER_LOGGED_STEP = 2
#: Where the paper's figures end, and the last evaluation before it, at which runs are compared; logged steps.
PAPER_END = 200
COMPARED_STEP = 196

_ANALYSIS = "rl.grpo_llama.3b_analysis_"
_DECAY = "rl.grpo_llama.3b_stable.130b_decay."
_LLAMA = "rl.grpo_llama.3b_math.8k_0411_2024"
_QWEN = "rl.grpo_qwen.3b_math.8k_0411_1954"
_OCTO_1B, _OCTO_3B = "rl.grpo_llama.1b_decay_", "rl.grpo_llama.3b_decay_"
_WEB_PRO = f"{_ANALYSIS}mm.web.pro.20B_math.8k_0411_1333"
_SHORT_COT = "rl.grpo_llama.3b_mmwebpro.synqa.91_math.8k_0411_2017"
_LONG_COT = f"{_ANALYSIS}mmwebpro.openr1.91_math.8k_0411_2030"
_LONG_COT_INS = f"{_ANALYSIS}mmwebpro.openr1.ins.89101_cpt8k_rl8k_math.8k"

NOTHING = "–"
Points = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """One figure of the paper: the folder of its exports and the label of each run, in the order of the legend."""

    folder: str
    title: str
    #: What the runs differ in.
    note: str
    labels: Mapping[str, str]


FIGURES = (
    PublishedFigure(
        folder="octo-vs-llama-vs-qwen", title="OctoThinker, Llama and Qwen at 3B",
        note="The paper's first figure: reinforcement learning from three base models.",
        labels={f"{_OCTO_3B}long.20B_math.8k_0421_1332": "OctoThinker Long", _LLAMA: "Llama-3.2-3B", _QWEN: "Qwen2.5-3B"},
    ),
    PublishedFigure(
        folder="motivation", title="Motivation: Llama and Qwen",
        note="Reinforcement learning from the two base models as released.",
        labels={_LLAMA: "Llama-3.2-3B", _QWEN: "Qwen2.5-3B"},
    ),
    PublishedFigure(
        folder="analysis_data_quality", title="Quality of the web corpus",
        note="Llama-3.2-3B mid-trained on 20B tokens of one web corpus.",
        labels={
            f"{_ANALYSIS}fm4p.20B_math.8k_0411_1327": "FineMath-4plus",
            _WEB_PRO: "MegaMath-Web-Pro",
            f"{_ANALYSIS}mm.web.pro.plus.20B_math.8k_0411_1331": "MegaMath-Web-Pro-Max",
        },
    ),
    PublishedFigure(
        folder="analysis_data_quantity", title="Quantity of mid-training",
        note="MegaMath-Web-Pro-Max; budgets of mid-training.",
        labels={
            f"{_ANALYSIS}mm.web.pro.plus.{size}B_math.8k_0411_{time}": f"{size}B tokens"
            for size, time in ((20, "2209"), (70, "1425"), (100, "1425"))
        },
    ),
    PublishedFigure(
        folder="analysis_qa", title="Questions and answers in the blend",
        note="MegaMath-Web-Pro alone, or nine parts of it with one of short or long chains of thought.",
        labels={_WEB_PRO: "web only", _SHORT_COT: "with short CoT", _LONG_COT: "with long CoT"},
    ),
    PublishedFigure(
        folder="analysis_shortqa", title="Short chains of thought",
        note="MegaMath-Web-Pro alone, or nine parts of it with one of short chains of thought.",
        labels={_WEB_PRO: "web only", _SHORT_COT: "with short CoT"},
    ),
    PublishedFigure(
        folder="analysis_longcot", title="Long against short chains of thought",
        note="Nine parts of MegaMath-Web-Pro with one of either.",
        labels={_SHORT_COT: "with short CoT", _LONG_COT: "with long CoT"},
    ),
    PublishedFigure(
        folder="analysis_instruction", title="Instructions with short chains of thought",
        note="One percent of instructions in the blend, or none.",
        labels={
            _SHORT_COT: "without instructions",
            "rl.grpo_llama.3b_mmwebpro.synqa.ins.89101_math.8k_0410_1935": "with instructions",
        },
    ),
    PublishedFigure(
        folder="analysis_longcot_instruction", title="Instructions with long chains of thought",
        note="One percent of instructions in the blend, or none.",
        labels={_LONG_COT: "without instructions", f"{_LONG_COT_INS}_0411_2035": "with instructions"},
    ),
    PublishedFigure(
        folder="analysis_longcot_template", title="Prompt template",
        note="The same model under the two templates of the prompt.",
        labels={f"{_LONG_COT_INS}_0411_2035": "simple", f"{_LONG_COT_INS}_orztemplate_0419_0137": "complex"},
    ),
    PublishedFigure(
        folder="analysis_length_scheduler", title="Cap on the length of responses",
        note="A cap that grows from 2,048 to 4,096 tokens, or 8,192 from the start.",
        labels={
            f"{_ANALYSIS}mmwebpro.openr1.ins.89101_cpt8k_rl2.4k_math.8k_orztemplate_0419_0135": "growing cap",
            f"{_LONG_COT_INS}_orztemplate_0419_0137": "8,192 tokens",
        },
    ),
    PublishedFigure(
        folder="3b_decay_ablation_shortqa_ratio", title="Decay: MegaMath-QA",
        note="Decay branches of 10B tokens from the stable run at 130B, by their share of MegaMath-QA.",
        labels={
            f"{_DECAY}synthqa.0{share}.10B_math.8k_0413_{time}": f"MegaMath-QA {share} %"
            for share, time in ((10, "0040"), (20, "0040"), (30, "0042"), (40, "0042"))
        },
    ),
    PublishedFigure(
        folder="3b_decay_ablation_omi2_ratio", title="Decay: OMI2",
        note="Decay branches of 10B tokens from the stable run at 130B, by their share of OpenMathInstruct-2.",
        labels={
            f"{_DECAY}omi.0{share}.10B_math.8k_0413_{time}": f"OMI2 {share} %"
            for share, time in ((10, "0050"), (20, "0050"), (30, "1048"), (40, "1104"))
        },
    ),
    PublishedFigure(
        folder="3b_decay_ablation_openr1_ratio", title="Decay: OpenR1",
        note="Decay branches of 10B tokens from the stable run at 130B, by their share of OpenR1.",
        labels={
            f"{_DECAY}openr1.0{share}.10B_math.8k_orzbase_{time}": f"OpenR1 {share} %"
            for share, time in ((10, "0419_0023"), (20, "0419_0026"), (30, "0419_0102"), (40, "0418_2334"))
        },
    ),
    PublishedFigure(
        folder="3b_decay_ablation_omi2_openr1_mix_ratio", title="Decay: OpenR1 and OMI2",
        note="Decay branches of 10B tokens from the stable run at 130B with 30 % of OpenR1 and OpenMathInstruct-2 together.",
        labels={
            f"{_DECAY}openr1.010.omi2.020_rlctx.4.8k_math.8k_orzbase_0415_1540": "OpenR1 10 %, OMI2 20 %",
            f"{_DECAY}openr1.015.omi2.015_rlctx.4.8k_math.8k_orzbase_0415_1539": "OpenR1 15 %, OMI2 15 %",
            f"{_DECAY}openr1.020.omi2.010_rlctx.4.8k_orzbase_math.8k_0415_1537": "OpenR1 20 %, OMI2 10 %",
        },
    ),
    PublishedFigure(
        folder="octothinker/1b", title="OctoThinker 1B",
        note="Reinforcement learning from the three decay branches.",
        labels={
            f"{_OCTO_1B}long.20B_math.8k_0421_1805": "1B Long",
            f"{_OCTO_1B}long.short.mix.20B_math.8k_0421_1311": "1B Hybrid",
            f"{_OCTO_1B}short.20B_math.8k_0422_1125": "1B Short",
        },
    ),
    PublishedFigure(
        folder="octothinker/3b", title="OctoThinker 3B",
        note="Reinforcement learning from the three decay branches.",
        labels={
            f"{_OCTO_3B}long.20B_math.8k_0421_1332": "3B Long",
            f"{_OCTO_3B}long.short.mix.20B_math.8k_0421_1810": "3B Hybrid",
            f"{_OCTO_3B}short.20B_math.8k_0422_1123": "3B Short",
        },
    ),
)  # fmt: skip

#: Few-shot accuracy (%) of the base models behind the runs, in the order of `BENCHMARKS`, as the notebooks draw it (dashed). Left out:
#: the token budgets, whose finished run stands below one of a fifth of its tokens (the wrong model or prompt, we suspect), and an AMC23
#: accuracy of 1.0 %, which 40 questions cannot give.
FEW_SHOT: Mapping[str, Points] = {
    _LLAMA: (7.4, 30.47, 2.07, 2.5),
    _QWEN: (38.2, 75.36, 10.22, 20.0),
    f"{_ANALYSIS}fm4p.20B_math.8k_0411_1327": (19.2, 47.76, 2.81, 10.0),
    _WEB_PRO: (20.4, 51.85, 3.41, 7.5),
    f"{_ANALYSIS}mm.web.pro.plus.20B_math.8k_0411_1331": (20.2, 50.11, 3.11, 10.0),
    _SHORT_COT: (20.6, 54.73, 3.70, 7.5),
    "rl.grpo_llama.3b_mmwebpro.synqa.ins.89101_math.8k_0410_1935": (22.4, 49.5, 4.30, 0.0),
    _LONG_COT: (22.6, 53.14, 3.70, None),
    f"{_LONG_COT_INS}_0411_2035": (24.0, 52.91, 3.70, 12.5),
    f"{_DECAY}synthqa.010.10B_math.8k_0413_0040": (26.6, 57.54, 5.19, 2.5),
    f"{_DECAY}synthqa.020.10B_math.8k_0413_0040": (26.2, 57.32, 4.30, 0.0),
    f"{_DECAY}synthqa.030.10B_math.8k_0413_0042": (25.0, 58.38, 4.00, 5.0),
    f"{_DECAY}synthqa.040.10B_math.8k_0413_0042": (26.92, 57.24, 3.56, 5.0),
    f"{_DECAY}omi.010.10B_math.8k_0413_0050": (27.0, 62.09, 4.89, 2.5),
    f"{_DECAY}omi.020.10B_math.8k_0413_0050": (31.8, 64.37, 5.48, 5.0),
    f"{_DECAY}omi.030.10B_math.8k_0413_1048": (32.6, 66.03, 2.37, 2.5),
    f"{_DECAY}omi.040.10B_math.8k_0413_1104": (30.6, 67.40, 4.74, 0.0),
    f"{_DECAY}openr1.010.10B_math.8k_orzbase_0419_0023": (25.8, 56.94, 4.00, 5.0),
    f"{_DECAY}openr1.020.10B_math.8k_orzbase_0419_0026": (25.4, 56.10, 3.70, 7.5),
    f"{_DECAY}openr1.030.10B_math.8k_orzbase_0419_0102": (25.8, 54.21, 4.59, 2.5),
    f"{_DECAY}openr1.040.10B_math.8k_orzbase_0418_2334": (24.2, 55.65, 5.33, 7.5),
    f"{_DECAY}openr1.010.omi2.020_rlctx.4.8k_math.8k_orzbase_0415_1540": (30.0, 64.52, 2.22, 10.0),
    f"{_DECAY}openr1.015.omi2.015_rlctx.4.8k_math.8k_orzbase_0415_1539": (31.0, 63.61, 5.19, 2.5),
    f"{_DECAY}openr1.020.omi2.010_rlctx.4.8k_orzbase_math.8k_0415_1537": (30.6, 61.71, 6.22, 0.0),
    f"{_OCTO_1B}long.20B_math.8k_0421_1805": (16.4, 37.15, 3.41, 7.5),
    f"{_OCTO_1B}long.short.mix.20B_math.8k_0421_1311": (26.4, 42.38, 5.48, 10.0),
    f"{_OCTO_1B}short.20B_math.8k_0422_1125": (27.8, 44.88, 3.85, 10.0),
    f"{_OCTO_3B}long.20B_math.8k_0421_1332": (25.8, 56.10, 4.74, 7.5),
    f"{_OCTO_3B}long.short.mix.20B_math.8k_0421_1810": (30.8, 64.37, 4.00, 10.0),
    f"{_OCTO_3B}short.20B_math.8k_0422_1123": (31.4, 63.31, 4.74, 2.5),
}

#: Questions of each benchmark in the authors' evaluation.
NUM_QUESTIONS: Mapping[str, int] = {"MATH500": 500, "GSM8K": 1_319, "OlympiadBench": 675, "AMC23": 40}

#: The models of the bars from base to after RL, with the folder of their runs.
BARS = (
    ("motivation", _LLAMA), ("motivation", _QWEN),
    *((figure.folder, run) for figure in FIGURES[-2:] for run in figure.labels),
)  # fmt: skip

#: Pass@k on MATH500 (shares) by k = 1, 2, 4, ..., 256: plot/plot/pass_k.ipynb. Responses of up to 1,024 tokens; of Long-Zero 4,096, for
#: which it was trained with 8,192.
PASS_AT_K: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("Llama-3.2-3B", "base"): (0.036, 0.068, 0.121, 0.202, 0.305, 0.420, 0.530, 0.623, 0.694),
    ("Llama-3.2-3B", "after RL"): (0.064, 0.112, 0.182, 0.274, 0.380, 0.487, 0.584, 0.663, 0.724),
    ("OctoThinker 3B Long", "base"): (0.198, 0.285, 0.377, 0.471, 0.561, 0.641, 0.705, 0.755, 0.794),
    ("OctoThinker 3B Long", "after RL"): (0.542, 0.605, 0.655, 0.698, 0.733, 0.760, 0.781, 0.801, 0.818),
}

#: `cpt_results/stable.json` holds six objects. Its headings say 1B twice; the second three are the 3B models of the paper's table.
BASE_MODELS = ("1B Long", "1B Hybrid", "1B Short", "3B Long", "3B Hybrid", "3B Short")
BASE_TABLE_FILE = Path("cpt_results") / "stable.json"


def figure_of(folder: str, curves: Sequence[Curve]) -> PublishedFigure | None:
    """The paper's figure that a folder is; None where it has other runs."""
    runs = {curve.run for curve in curves}
    return next((figure for figure in FIGURES if figure.folder == folder and runs <= set(figure.labels)), None)


def few_shot(run: str, benchmark: str) -> float | None:
    """The reference of a run's base model in %, where the notebooks state one."""
    return dict(zip(BENCHMARKS, FEW_SHOT.get(run, ()), strict=False)).get(benchmark)


def wilson(share: float, benchmark: str) -> Interval:
    """An accuracy with its 95 % interval over the questions of a benchmark (Wilson's, which holds near 0 and 1)."""
    n, z = NUM_QUESTIONS[benchmark], 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(mean=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def read_base_table(file: Path) -> list[dict[str, Any]]:
    """Few-shot accuracy (%) of the six decay branches before RL, one row per benchmark.

    Raises:
        ArtifactError: the file is not six objects one after the other, each under a heading.
    """
    models = [_accuracies(text) for text in _objects(file)]
    if len(models) != len(BASE_MODELS):
        raise ArtifactError(f"{file} holds {len(models)} objects, not the six of the published file; get it again")
    return [
        {"benchmark": name} | {model: found[name] for model, found in zip(BASE_MODELS, models, strict=True)}
        for name in models[0]
    ]


def _objects(file: Path) -> list[Mapping[str, Any]]:
    text, decoder, found = file.read_text(encoding="utf-8"), json.JSONDecoder(), []
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{file} is not the published table ({error}); get it again") from error
        found.append(value)
        start = text.find("{", end)
    return found


def _accuracies(model: Mapping[str, Any]) -> dict[str, float]:
    return {key.removesuffix("-cot"): round(100 * entry["cot"]["accuracy"], 2) for key, entry in model.items()}


def spell_accuracy(row: Mapping[str, Any], benchmark: str, *, at: int) -> str:
    """Cells of a summary as the recipe prints them: `0.0→8.4→8.3 (9.9@104)`; a dash where nothing was logged."""
    start, middle, last, best = (row.get(f"{benchmark}_{key}") for key in ("at_0", f"at_{at}", "last", "best"))
    if last is None:
        return NOTHING
    path = "→".join(_number(value, ".1f") for value in (start, middle, last))
    return f"{path} ({_number(best, '.1f')}@{row[f'{benchmark}_best_step']})"


def spell_tokens(row: Mapping[str, Any], benchmark: str, *, at: int) -> str:
    """Likewise: `187→1218→2010`."""
    lengths = [row.get(f"{benchmark}_tokens_{key}") for key in ("at_0", f"at_{at}", "last")]
    return NOTHING if lengths[-1] is None else "→".join(_number(length, "d") for length in lengths)


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)
