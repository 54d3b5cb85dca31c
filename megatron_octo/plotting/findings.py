"""What the numbers say: one `Outcome` per model, and the sentence at the head of the report. Values in, words out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_octo.errors import ArtifactError
from megatron_octo.plotting import intervals
from megatron_octo.plotting.intervals import Answers, Gain, Interval
from megatron_octo.plotting.results import Evaluated, ModelResults


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One model before and after RL. Accuracies and shares lie in 0..1, lengths are tokens; means over seeds after RL."""

    name: str
    base: Interval
    gain: Gain | None
    accuracy_by_seed: tuple[float, ...]
    num_questions: int
    #: (base, after RL); None where nothing was measured.
    response_length: tuple[float, float | None]
    truncated: tuple[float, float | None]
    boxed: tuple[float, float | None]

    @property
    def num_seeds(self) -> int:
        return len(self.accuracy_by_seed)


def outcomes(models: Sequence[ModelResults]) -> tuple[Outcome, ...]:
    """One outcome per model whose base was evaluated, the control's gain being that of the first model.

    Raises:
        ArtifactError: the models did not answer the same questions.
    """
    bases = {model.name: model.base for model in models if model.base}
    answers = {model.name: _answers(model.base, model.after) for model in models if model.base and model.after}
    _require_same_questions(models)
    gains = intervals.gains(answers, control=models[0].name) if answers else {}
    after = {model.name: model.after for model in models}
    return tuple(_outcome(name, base, after[name], gains.get(name)) for name, base in bases.items())


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
        f"On {trained[0].num_questions:,} held-out questions reinforcement learning changed accuracy by "
        f"{_join([_gain_words(outcome) for outcome in trained])} (95 % intervals; {_seed_words(trained)})."
    ]
    compared = [_comparison_words(outcome) for outcome in trained if outcome.gain and outcome.gain.over_control]
    if compared:
        sentences.append(f"Against the gain of {control}: {'; '.join(compared)}.")
    else:
        sentences.append(f"There is no other model to compare with {control} yet.")
    return " ".join(sentences)


def points(share: float, *, signed: bool = False) -> str:
    """A share as percentage points with one decimal and a true minus: `-0.031 -> '−3.1'`."""
    value = round(100 * share, 1) or 0.0  # neither -0.0 nor +0.0
    return f"{value:{'+' if signed and value else ''}.1f}".replace("-", "−")


def span(interval: Interval, *, signed: bool = False) -> str:
    return f"{points(interval.low, signed=signed)} to {points(interval.high, signed=signed)}"


def _outcome(name: str, base: Evaluated, after: Sequence[Evaluated], gain: Gain | None) -> Outcome:
    accuracy = base.scores["accuracy"]
    return Outcome(
        name=name,
        base=Interval(mean=accuracy["mean"], low=accuracy["low"], high=accuracy["high"]),
        gain=gain,
        accuracy_by_seed=tuple(evaluated.scores["accuracy"]["mean"] for evaluated in after),
        num_questions=len(base.correct_by_question()),
        response_length=_before_after("response_length", base, after),
        truncated=_before_after("truncated", base, after),
        boxed=_before_after("boxed", base, after),
    )


def _before_after(key: str, base: Evaluated, after: Sequence[Evaluated]) -> tuple[float, float | None]:
    values = [float(evaluated.scores[key]) for evaluated in after]
    return float(base.scores[key]), sum(values) / len(values) if values else None


def _answers(base: Evaluated, after: Sequence[Evaluated]) -> Answers:
    questions = base.correct_by_question()
    runs = [evaluated.correct_by_question() for evaluated in after]
    return Answers(
        base=np.array(list(questions.values())),
        after=np.array([[run.get(question, np.nan) for question in questions] for run in runs]),
    )


def _require_same_questions(models: Sequence[ModelResults]) -> None:
    evaluated = [(model.name, each) for model in models for each in (model.base, *model.after) if each]
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
