"""The text a model continues: a benchmark's few-shot prompt, or a zero-shot template as after RL."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_octo import templates
from megatron_octo.answer_text import LETTERS
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation import loading
from megatron_octo.evaluation.benchmarks import Benchmark, named
from megatron_octo.evaluation.config import Evaluation, Source
from megatron_octo.questions import Question


@dataclass(frozen=True)
class Prompts:
    """One prompt per question, in the order of the questions."""

    texts: list[str]
    stop_strings: tuple[str, ...]
    #: Examples in each; the same in all, so that an engine can keep their keys and values.
    num_shots: int


def build(config: Evaluation, source: Source, asked: Sequence[Question]) -> Prompts:
    """Prompts for all questions of a benchmark, none of which is its own example.

    Raises `ConfigError` and `CorpusError` where examples are missing.
    """
    if config.template is not None:
        text = templates.load(config.template, config.template_file)
        texts = [templates.render(text, with_options(each)) for each in asked]
        return Prompts(texts, config.stop_strings, num_shots=0)
    benchmark = named(source.name)
    num_shots = benchmark.num_shots if config.num_shots is None else config.num_shots
    shown = choose(loading.shots(source, config.shots), asked, num_shots, source) if num_shots else []
    head = "".join(f"{_ask(benchmark, each)} {gold_response(benchmark, each)}\n\n" for each in shown)
    return Prompts([head + _ask(benchmark, each) for each in asked], benchmark.style.stop_strings, num_shots=len(shown))


def choose(pool: Sequence[Question], asked: Sequence[Question], num_shots: int, source: Source) -> list[Question]:
    """The first examples that are not asked. Raises `ConfigError` where there are fewer than wanted."""
    forbidden = {_words(each.question) for each in asked}
    shown = [each for each in pool if _words(each.question) not in forbidden][:num_shots]
    if len(shown) < num_shots:
        raise ConfigError(
            f"{source.name} is to show {num_shots} examples, but {source.shots_file or 'its source'} has {len(shown)} that are "
            f"not asked; name a larger --shots-file, or take --num-shots {len(shown)}"
        )
    return shown


def gold_response(benchmark: Benchmark, question: Question) -> str:
    """The right response as an example shows it: the worked solution where there is one, and the closing sentence."""
    answer = f"({question.answer})" if question.choices else question.answer
    closing = benchmark.style.closes.replace("{answer}", answer)  # not format: answers have braces
    return f"{question.solution or ''}{closing}".strip()


def with_options(question: Question) -> str:
    """The question, and below it the options of a multiple choice."""
    options = [f"({letter}) {text}" for letter, text in zip(LETTERS, question.choices, strict=False)]
    return "\n".join([question.question, *options])


def _ask(benchmark: Benchmark, question: Question) -> str:
    return templates.render(benchmark.style.asks, with_options(question))


def _words(question: str) -> str:
    return " ".join(question.split()).casefold()
