"""What the numbers say: one `Outcome` per model and benchmark, and the sentence at the head of the report.

Values in, words out. The sentence is about the first benchmark of the base evaluations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_octo.errors import ArtifactError
from megatron_octo.evaluation.config import FEW_QUESTIONS
from megatron_octo.plotting import intervals
from megatron_octo.plotting.intervals import Answers, Gain, Interval
from megatron_octo.plotting.results import Evaluated, ModelResults


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One model on one benchmark before and after RL: accuracies and shares in 0..1, tokens; means over seeds after RL."""

    name: str
    #: Its title.
    benchmark: str
    base: Interval
    gain: Gain | None
    accuracy_by_seed: tuple[float, ...]
    num_questions: int
    #: (base, after RL); None where nothing was measured.
    response_length: tuple[float, float | None]
    truncated: tuple[float, float | None]
    answered: tuple[float, float | None]
    #: Few-shot examples before each question; equal where the prompts are.
    num_shots: tuple[int, int | None]

    @property
    def num_seeds(self) -> int:
        return len(self.accuracy_by_seed)

    @property
    def half_width(self) -> float:
        """Of the wider one of the intervals of the two accuracies."""
        measured = (self.base, self.gain.after) if self.gain else (self.base,)
        return max(interval.high - interval.low for interval in measured) / 2

    @property
    def has_few_questions(self) -> bool:
        return self.num_questions < FEW_QUESTIONS


@dataclass(frozen=True, kw_only=True)
class SampledScores:
    """A model that was asked several times: unbiased pass@k and majority@k, by k.

    After RL the means over seeds, of the interval's ends too: what one run of RL would show.
    """

    name: str
    benchmark: str
    #: "base" or "after RL".
    state: str
    num_samples: int
    pass_at: Mapping[int, Interval]
    maj_at: Mapping[int, Interval]


def outcomes(models: Sequence[ModelResults], benchmark: str) -> tuple[Outcome, ...]:
    """One outcome per model whose base was evaluated on it, the control's gain being that of the first model.

    Raises:
        ArtifactError: the models did not answer the same questions.
    """
    bases = {model.name: model.base[benchmark] for model in models if benchmark in model.base}
    after = {model.name: model.after_on(benchmark) for model in models}
    _require_same_questions(bases, after)
    answers = {name: _answers(base, after[name]) for name, base in bases.items() if after[name]}
    gains = intervals.gains(answers, control=models[0].name) if answers else {}
    return tuple(_outcome(name, benchmark, base, after[name], gains.get(name)) for name, base in bases.items())


def sampled_scores(models: Sequence[ModelResults], benchmark: str) -> tuple[SampledScores, ...]:
    """Of every model, before and after RL, that answered each question several times."""
    states = [
        (model.name, state, runs)
        for model in models
        for state, runs in (
            ("base", [model.base[benchmark]] if benchmark in model.base else []),
            ("after RL", list(model.after_on(benchmark))),
        )
    ]
    return tuple(
        _sampled(name, benchmark, state, runs)
        for name, state, runs in states
        if runs and min(run.scores["num_samples"] for run in runs) > 1
    )


def question(models: Sequence[ModelResults]) -> str:
    """What the study asked."""
    control, *others = [model.name for model in models]
    if not others:
        return f"How much does {control} gain from reinforcement learning?"
    return f"Does {_join(others, 'or')} gain more from reinforcement learning than {control}, the control?"


def answer(found: Sequence[Outcome], *, control: str) -> str:
    """What came out, in numbers; says where the data cannot tell."""
    trained = [outcome for outcome in found if outcome.gain]
    if not trained:
        return "No model has been evaluated after reinforcement learning yet, so there is no answer."
    sentences = [
        f"On the {trained[0].num_questions:,} questions of {trained[0].benchmark} reinforcement learning changed accuracy by "
        f"{_join([_gain_words(outcome) for outcome in trained])} (95 % intervals; {_seed_words(trained)})."
    ]
    compared = [_comparison_words(outcome) for outcome in trained if outcome.gain and outcome.gain.over_control]
    if compared:
        sentences.append(f"Against the gain of {control}: {'; '.join(compared)}.")
    else:
        sentences.append(f"There is no other model to compare with {control} yet.")
    return " ".join(sentences)


def warning(found: Sequence[Outcome]) -> str | None:
    """What to keep in mind where a benchmark has few questions; None where it has enough."""
    if not found or not found[0].has_few_questions:
        return None
    widest = max(outcome.half_width for outcome in found)
    return (
        f"{found[0].benchmark} has only {found[0].num_questions} questions: accuracies on it are known to within "
        f"± {points(widest)} points. Read the intervals, not the means."
    )


def points(share: float, *, signed: bool = False) -> str:
    """A share as percentage points with one decimal and a true minus: `-0.031 -> '−3.1'`."""
    value = round(100 * share, 1) or 0.0  # neither -0.0 nor +0.0
    return f"{value:{'+' if signed and value else ''}.1f}".replace("-", "−")


def span(interval: Interval, *, signed: bool = False) -> str:
    return f"{points(interval.low, signed=signed)} to {points(interval.high, signed=signed)}"


def _outcome(name: str, benchmark: str, base: Evaluated, after: Sequence[Evaluated], gain: Gain | None) -> Outcome:
    return Outcome(
        name=name,
        benchmark=_title(benchmark, base),
        base=_mean_interval([base.scores["accuracy"]]),
        gain=gain,
        accuracy_by_seed=tuple(evaluated.scores["accuracy"]["mean"] for evaluated in after),
        num_questions=len(base.correct_by_question()),
        response_length=_before_after("response_length", base, after),
        truncated=_before_after("truncated", base, after),
        answered=_before_after("answered", base, after),
        num_shots=(base.scores["num_shots"], after[0].scores["num_shots"] if after else None),
    )


def _sampled(name: str, benchmark: str, state: str, runs: Sequence[Evaluated]) -> SampledScores:
    return SampledScores(
        name=name,
        benchmark=_title(benchmark, runs[0]),
        state=state,
        num_samples=min(run.scores["num_samples"] for run in runs),
        pass_at=_mean_by_k([run.scores["pass_at"] for run in runs]),
        maj_at=_mean_by_k([run.scores["maj_at"] for run in runs]),
    )


def _mean_by_k(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[int, Interval]:
    """At every k that all runs have."""
    shared = [k for k in runs[0] if all(k in run for run in runs)]
    return {int(k): _mean_interval([run[k] for run in runs]) for k in shared}


def _mean_interval(written: Sequence[Mapping[str, float]]) -> Interval:
    def mean(key: str) -> float:
        return sum(each[key] for each in written) / len(written)

    return Interval(mean=mean("mean"), low=mean("low"), high=mean("high"))


def _title(benchmark: str, evaluated: Evaluated) -> str:
    return str(evaluated.scores.get("title", benchmark))


def _before_after(key: str, base: Evaluated, after: Sequence[Evaluated]) -> tuple[float, float | None]:
    values = [float(evaluated.scores[key]) for evaluated in after]
    return float(base.scores[key]), sum(values) / len(values) if values else None


def _answers(base: Evaluated, after: Sequence[Evaluated]) -> Answers:
    questions = base.correct_by_question()
    runs = [evaluated.correct_by_question() for evaluated in after]
    return Answers(
        base=np.array(list(questions.values())),
        after=np.array([[run[question] for question in questions] for run in runs]),
    )


def _require_same_questions(bases: Mapping[str, Evaluated], after: Mapping[str, Sequence[Evaluated]]) -> None:
    evaluated = [(name, each) for name, base in bases.items() for each in (base, *after[name])]
    for name, each in evaluated[1:]:
        if each.correct_by_question().keys() != evaluated[0][1].correct_by_question().keys():
            raise ArtifactError(
                f"an evaluation of {name} and one of {evaluated[0][0]} asked different questions; "
                "evaluate all models of a report on one data set"
            )


def _gain_words(outcome: Outcome) -> str:
    assert outcome.gain
    gain = outcome.gain.gain
    return f"{points(gain.mean, signed=True)} points for {outcome.name} ({span(gain, signed=True)})"


def _comparison_words(outcome: Outcome) -> str:
    assert outcome.gain
    assert outcome.gain.over_control
    difference = outcome.gain.over_control
    numbers = f"{points(difference.mean, signed=True)} points, {span(difference, signed=True)}"
    if not difference.excludes_zero:
        return f"for {outcome.name} these data cannot tell ({numbers})"
    return f"{outcome.name} gains {'more' if difference.mean > 0 else 'less'} ({numbers})"


def _seed_words(trained: Sequence[Outcome]) -> str:
    counts = sorted({outcome.num_seeds for outcome in trained})
    if counts == [1]:
        return "one RL seed per model, so they cover the choice of questions but not the noise between RL runs"
    return f"over {' to '.join(map(str, counts))} RL seeds per model and the questions"


def _join(words: Sequence[str], last: str = "and") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]
