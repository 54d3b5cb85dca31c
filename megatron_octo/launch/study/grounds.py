"""What a study stands on, as jobs and configs: text, tokenizer, starting weights, questions.

world    the generated world of the tiny study: text and questions are written, the tokenizer is trained on the spot
model    a published model and the user's copies of the published corpora: nothing is made but shards and an import
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.errors import ConfigError, CorpusError, listed
from megatron_octo.evaluation.config import Evaluation, Overlap, Source
from megatron_octo.launch import evaluations
from megatron_octo.launch.jobs import Job, stage
from megatron_octo.recipes.study import ModelStudy, Study, WorldStudy
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.tokenization.config import Tokenization, TokenizerTraining

#: The held-out questions of a world, in evaluation and during RL.
TEST_SET = "test"
#: The published model as a checkpoint to train from.
IMPORT = "import"


class Ground(Protocol):
    """What the stages of a study ask of it. Everything lies below the study's directory, or is the user's."""

    def jobs(self) -> list[Job]:
        """The jobs that come before training, in an order that respects what needs what; `shards/<corpus>` among them."""

    @property
    def start(self) -> str | None:
        """The job whose directory the stable run starts from; None for random weights."""

    @property
    def prompts(self) -> Path:
        """The questions RL trains on."""

    def eval_sets(self, rl: ReinforcementLearning) -> Mapping[str, Path]:
        """The questions RL evaluates on, by the names of its sets."""

    def export(self, trained: Path) -> Conversion:
        """A trained model to a Hugging Face directory."""

    def base_evaluation(self, model: Path, rl: ReinforcementLearning) -> Evaluation:
        """How a model is examined before RL."""

    def rl_evaluation(self, model: Path, rl: ReinforcementLearning) -> Evaluation:
        """And after it."""

    def overlap(self) -> Overlap:
        """The search for the questions of the evaluations in the training text."""


def of(study: Study, out: Path) -> Ground:
    """The ground of a study below `out`. Raises `CorpusError` where a benchmark's file is missing."""
    if isinstance(study, WorldStudy):
        return WorldGround(study, out)
    assert isinstance(study, ModelStudy)
    return ModelGround(study, out)


class WorldGround:
    """A generated world."""

    def __init__(self, study: WorldStudy, out: Path) -> None:
        self.study, self.out = study, out
        self.names = [size.corpus for size in study.world.corpora]

    def jobs(self) -> list[Job]:
        world = stage(self.out, "world", "curation.run", self.study.world)
        tokenizer = stage(
            self.out, "tokenizer", "tokenization.train_tokenizer", self._tokenizer_training(), needs=("world",)
        )
        return [world, tokenizer, *(self._shards(corpus) for corpus in self.names)]

    start = None

    @property
    def prompts(self) -> Path:
        return self.out / "world" / "rl.jsonl"

    def eval_sets(self, rl: ReinforcementLearning) -> Mapping[str, Path]:
        return {TEST_SET: self.out / "world" / "test.jsonl"}

    def export(self, trained: Path) -> Conversion:
        return Conversion(
            direction=Direction.TO_HF,
            source=trained,
            tokenizer=self._tokenizer,
            dtype=self.study.export_dtype,
            check_logits=True,
        )

    def base_evaluation(self, model: Path, rl: ReinforcementLearning) -> Evaluation:
        return Evaluation(
            model=model,
            benchmarks=self._test_set(),
            template=rl.template,
            template_file=rl.template_file,
            stop_strings=rl.stop_strings,
            max_new_tokens=self.study.eval_max_new_tokens,
            batch_size=self.study.eval_batch_size,
        )

    rl_evaluation = base_evaluation

    def overlap(self) -> Overlap:
        return Overlap(benchmarks=self._test_set(), shards=self.out / "shards", tokenizer=self._tokenizer)

    @property
    def _tokenizer(self) -> Path:
        return self.out / "tokenizer"

    def _test_set(self) -> tuple[Source, ...]:
        return (Source(name=TEST_SET, file=self.out / "world" / "test.jsonl"),)

    def _tokenizer_training(self) -> TokenizerTraining:
        # The user's text takes part through the byte fallback: the tokenizer is the world's, so that studies compare.
        return TokenizerTraining(
            inputs=tuple(self.out / "world" / f"{corpus}.jsonl" for corpus in self.names),
            vocab_size=self.study.vocab_size,
            max_documents_per_input=self.study.tokenizer_documents,
            split_pattern=self.study.split_pattern,
            model_max_length=self.study.stable.model.max_position_embeddings,
        )

    def _shards(self, corpus: str) -> Job:
        files, field = self._text(corpus)
        config = Tokenization(corpus=corpus, inputs=files, text_field=field, tokenizer=self._tokenizer)
        return stage(self.out, f"shards/{corpus}", "tokenization.run", config, needs=("tokenizer",))

    def _text(self, corpus: str) -> tuple[tuple[Path, ...], str]:
        """Files and text field of a corpus: the user's where given, else the world's."""
        users = self.study.user_corpus
        if users is not None and users.corpus == corpus:
            return users.files, users.text_field
        return (self.out / "world" / f"{corpus}.jsonl",), "text"


class ModelGround:
    """A published model and the user's copies of the corpora."""

    def __init__(self, study: ModelStudy, out: Path) -> None:
        self.study, self.out = study, out

    start = IMPORT

    def jobs(self) -> list[Job]:
        texts = {text.corpus: text for text in self.study.texts}
        imported = Conversion(direction=Direction.FROM_HF, source=self.study.base)
        return [
            *(self._shards(texts[corpus]) for corpus in self.study.corpora_read),
            stage(self.out, IMPORT, "conversion.run", imported),
        ]

    @property
    def prompts(self) -> Path:
        return self.study.prompts

    def eval_sets(self, rl: ReinforcementLearning) -> Mapping[str, Path]:
        return {name: self.study.eval_sets / f"{name}.jsonl" for name in rl.eval_sets}

    def export(self, trained: Path) -> Conversion:
        # config.json, tokenizer and licence are those that the import kept.
        return Conversion(direction=Direction.TO_HF, source=trained, dtype=self.study.export_dtype, check=True)

    def base_evaluation(self, model: Path, rl: ReinforcementLearning) -> Evaluation:
        return Evaluation(
            model=model,
            engine=self.study.eval_engine,
            benchmarks=self._suite(self.study.base_suite),
            template=None,
            max_new_tokens=self.study.eval_max_new_tokens,
            batch_size=self.study.eval_batch_size,
        )

    def rl_evaluation(self, model: Path, rl: ReinforcementLearning) -> Evaluation:
        return Evaluation(
            model=model,
            engine=self.study.eval_engine,
            benchmarks=self._suite(self.study.rl_suite),
            template=rl.template,
            template_file=rl.template_file,
            stop_strings=rl.stop_strings,
            max_new_tokens=rl.longest_response_tokens,
            batch_size=self.study.eval_batch_size,
        )

    def overlap(self) -> Overlap:
        return Overlap(
            benchmarks=self._suite(self.study.base_suite),
            shards=self.out / "shards",
            tokenizer=self.study.base,
            max_documents=self.study.overlap_documents,
            workers=self.study.overlap_workers,
        )

    def _suite(self, name: str) -> tuple[Source, ...]:
        try:
            return evaluations.sources([name], datasets=(), data=self.study.benchmarks, shots_file=None)
        except (ConfigError, CorpusError) as error:
            raise type(error)(
                f"the suites and benchmarks={self.study.benchmarks} of {self.study.name}: {error}"
            ) from error

    def _shards(self, text: Tokenization) -> Job:
        config = dataclasses.replace(
            text,
            inputs=(self.study.corpora / text.corpus,),
            tokenizer=self.study.base,
            tasks=self.study.tokenize_tasks,
            workers=self.study.tokenize_workers,
        )
        return stage(self.out, f"shards/{text.corpus}", "tokenization.run", config)


def require_inputs(study: Study) -> None:
    """Raises `CorpusError` that names all that a study reads and this machine does not have, and the fields that say where it is."""
    if not isinstance(study, ModelStudy):
        return
    asked = {name for rl in study.rl for name in rl.eval_sets}
    needed = [
        *(("corpora", study.corpora / corpus) for corpus in study.corpora_read),
        ("base", study.base / "config.json"),
        ("prompts", study.prompts),
        *(("eval_sets", study.eval_sets / f"{name}.jsonl") for name in sorted(asked)),
    ]
    missing = [(field, path) for field, path in needed if not path.exists()]
    if missing:
        fields = " ".join(
            f"{field}={'FILE' if field == 'prompts' else 'DIR'}" for field in dict.fromkeys(dict(missing))
        )
        paths = listed([str(path) for _, path in missing])
        raise CorpusError(f"{study.name} reads what is not here: {paths}; say where yours are: {fields}")
