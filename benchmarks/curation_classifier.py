r"""The classifier: documents a second and core, what a threshold keeps, and what the normalisation is worth.

    python benchmarks/curation_classifier.py [--documents 8000] [--questions gsm8k.jsonl]

Documents are made on the spot: sentences of docstrings of this machine's Python packages, mixed with sentences of mathematics from
templates. A document's points go by the share of these, so that there is a border where it is hard to tell. The last table trains on
one kind of text and asks about others: upper case, broken lines, odd punctuation, other numbers, other mathematics. With --questions
(JSONL with `question` and `answer`) what is trained on comes from that file, otherwise from the first templates.

Prints Markdown. One core; of the speeds the best of seven turns, in CPU seconds. The model has the paper's size: 2 GB of memory while
it is trained, a minute.
"""

import argparse
import ast
import dataclasses
import json
import os
import random
import re
import sysconfig
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fasttext
import numpy as np
import zstandard

from megatron_octo import artifacts
from megatron_octo.curation import documents
from megatron_octo.curation.config import Classifier, InParts
from megatron_octo.curation.scoring import classifier, classifier_run, curves, normalising
from megatron_octo.curation.scoring.classifier import Scorer
from megatron_octo.curation.scoring.relevance import Relevant

SEED = 1234
TURNS = 7
#: Mean of the web documents the notes speak of, and of ours.
CHARACTERS = 2_600
LARGEST_FILE_BYTES = 200_000
#: A document has as many points as this share of mathematics is passed: 3 from 0.3 on.
POINTS = (0.05, 0.15, 0.3, 0.5, 0.7)
YEARS = ("2014", "2017", "2020", "2023", "2024")
SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TRAINED_WITH = Classifier(epochs=5, lr=0.5)
SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z])")
#: nltk's wordpunct_tokenize.
WORD_PUNCT = re.compile(r"\w+|[^\w\s]+")

NAMES = ("Mia", "Tom", "Ana", "Leo", "Zoe", "Max", "Eva", "Sam")
THINGS = ("apples", "pencils", "tickets", "litres of milk", "marbles", "stamps", "pages", "coins")
WORD_PROBLEMS = (
    "{name} has {a} {thing} and buys {b} more, so there are {a} + {b} = {sum} {thing} now.",
    "Solve {a}x + {b} = {c} for x: subtract {b} from both sides, then divide by {a}.",
    "If {a} {thing} cost {b} dollars, how much do {c} {thing} cost?",
    "The sum of {a} and {b} is {sum}, which is {parity}.",
    "A train travels {a} km in {b} hours; what is its average speed?",
    "Therefore the remainder of {c} divided by {a} is the number we are looking for.",
    "What percentage of {c} is {b}?",
)
DERIVATIONS = (
    "Let \\( n \\ge {a} \\) be an integer and suppose that \\( n^2 \\equiv {b} \\pmod{{{c}}} \\).",
    "By the triangle inequality \\( |x_{a} - y| \\le |x_{a} - z| + |z - y| < \\frac{{{b}}}{{{c}}} \\).",
    "The area of the triangle is \\( \\tfrac12 \\cdot {a} \\cdot {b} \\), hence \\( h = \\sqrt{{{c}}} \\).",
    "Differentiating \\( f(x) = {a}x^{b} + {c} \\) gives the slope at the point of tangency.",
    "It follows by induction that \\( \\sum_{{k=1}}^{{n}} k = \\frac{{n(n+1)}}{{2}} \\), which proves the lemma.",
)

Sentences = Callable[[random.Random], str]


@dataclass(frozen=True)
class Labelled:
    text: str
    points: int


def main() -> None:
    options = parser().parse_args()
    prose = sentences_of_docstrings(characters=options.documents * CHARACTERS // 4)
    middle = len(prose) // 2
    mathematics: dict[str, Sentences] = {
        "word problems from templates": word_problem,
        "derivations in LaTeX from templates": derivation,
    }
    if options.questions:
        mathematics = {"questions of the file": questions(options.questions)} | mathematics
    first = next(iter(mathematics.values()))
    taught = made(options.documents, prose[:middle], first, seed=SEED)
    asked, *others = (
        made(options.documents // 4, prose[middle:], each, seed=SEED + number)
        for number, each in enumerate(mathematics.values(), start=1)
    )
    with tempfile.TemporaryDirectory() as folder:
        report(
            Path(folder), taught, asked, dict(zip(list(mathematics)[1:], others, strict=True)), picture=options.picture
        )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--documents", type=int, default=8_000, help="to train on")
    made.add_argument("--questions", type=Path, help="JSONL with 'question' and 'answer', to train on")
    made.add_argument("--picture", type=Path, help="a copy of the stage's curves.png")
    return made


def report(
    folder: Path,
    taught: Sequence[Labelled],
    asked: Sequence[Labelled],
    others: Mapping[str, Sequence[Labelled]],
    *,
    picture: Path | None,
) -> None:
    annotated = annotations(folder / "annotations", taught)
    stages = {normalise: train(folder, annotated, normalise=normalise) for normalise in (True, False)}
    if picture:
        picture.write_bytes((stages[True] / "curves.png").read_bytes())
    characters = sum(len(each.text) for each in asked) / len(asked)
    print(
        f"# Classifier: {len(taught):,} documents annotated, {len(asked):,} asked about, {characters:,.0f} characters each\n"
    )
    print(speeds(folder, stages[True], asked))
    print(thresholds(stages[True]))
    print(normalisation(stages, asked, others))


# Documents ------------------------------------------------------------------------------------------------------------


def sentences_of_docstrings(*, characters: int) -> list[str]:
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    files = sorted({file for root in roots for file in root.rglob("*.py") if file.stat().st_size < LARGEST_FILE_BYTES})
    random.Random(SEED).shuffle(files)
    found: dict[str, None] = {}
    size = 0
    for file in files:
        for sentence in sentences_of(file):
            size += len(sentence) if sentence not in found else 0
            found[sentence] = None
        if size > characters:
            break
    return list(found)


def sentences_of(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for sentence in SENTENCE.split(ast.get_docstring(node) or ""):
                if 30 < len(sentence) < 400:
                    yield sentence


def made(count: int, prose: Sequence[str], mathematics: Sentences, *, seed: int) -> list[Labelled]:
    return [document(random.Random(f"{seed}/{number}"), prose, mathematics) for number in range(count)]


def document(source: random.Random, prose: Sequence[str], mathematics: Sentences) -> Labelled:
    share = source.random() ** 1.5
    chosen: list[str] = []
    while sum(len(each) for each in chosen) < CHARACTERS:
        chosen.append(mathematics(source) if source.random() < share else source.choice(prose))
    return Labelled("\n".join(chosen), sum(share > bound for bound in POINTS))


def word_problem(source: random.Random) -> str:
    a, b = source.randint(2, 99), source.randint(2, 99)
    return source.choice(WORD_PROBLEMS).format(
        a=a, b=b, c=source.randint(100, 999), sum=a + b, name=source.choice(NAMES), thing=source.choice(THINGS),
        parity="odd" if (a + b) % 2 else "even",
    )  # fmt: skip


def derivation(source: random.Random) -> str:
    return source.choice(DERIVATIONS).format(a=source.randint(2, 9), b=source.randint(2, 9), c=source.randint(2, 99))


def questions(file: Path) -> Sentences:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = [part for row in rows for text in (row["question"], row["answer"]) for part in SENTENCE.split(text)]
    return lambda source: source.choice(found)


def upper_case(text: str, _: random.Random) -> str:
    return text.upper()


def broken_lines(text: str, source: random.Random) -> str:
    """A line end, sometimes two, for every third space."""
    return re.sub(" ", lambda _: source.choice((" ", " ", " ", " ", "\n", "\r\n\n")), text)


def odd_punctuation(text: str, source: random.Random) -> str:
    """Quotation marks round words, dashes and commas without spaces, as extraction leaves them."""
    return re.sub(
        r" (\w+)", lambda word: source.choice((" {}", " {}", " “{}”", "—{}", ",{}", " *{}*")).format(word[1]), text
    )


def other_numbers(text: str, source: random.Random) -> str:
    return re.sub(r"\d+", lambda _: str(source.randint(1_000, 99_999)), text)


FORMATS: dict[str, Callable[[str, random.Random], str]] = {
    "as in training": lambda text, _: text,
    "upper case": upper_case,
    "broken lines": broken_lines,
    "odd punctuation": odd_punctuation,
    "other numbers": other_numbers,
    "all four": lambda text, source: other_numbers(odd_punctuation(broken_lines(text.upper(), source), source), source),
}


# Stages ---------------------------------------------------------------------------------------------------------------


def annotations(out: Path, taught: Sequence[Labelled]) -> Path:
    with artifacts.stage(out, kind="annotations", config=InParts(parts=1)):
        rows = (
            {
                "id": str(number),
                "year": YEARS[number % len(YEARS)],
                "score": each.points,
                "text": each.text,
                "answer": "",
            }
            for number, each in enumerate(taught)
        )
        (out / classifier_run.ANNOTATIONS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def train(folder: Path, annotated: Path, *, normalise: bool) -> Path:
    out = folder / f"classifier_{normalise}"
    config = dataclasses.replace(TRAINED_WITH, annotations=annotated, normalise=normalise)
    classifier_run.run(config, out, force=False)
    return out


# Tables ---------------------------------------------------------------------------------------------------------------


def speeds(folder: Path, stage: Path, asked: Sequence[Labelled]) -> str:
    """Parts of the time alone, then whole pipelines of one part."""
    read = folder / "read"
    documents.file_of(read, 0).parent.mkdir(parents=True)
    (folder / "kept").mkdir()
    rows = (documents.line_of(str(n), each.text, {"year": YEARS[n % 5]}) for n, each in enumerate(asked))
    documents.file_of(read, 0).write_bytes(zstandard.compress(b"".join(rows)))
    texts = [each.text for each in asked]
    lines = [normalising.normalised(text) + b"\n" for text in texts]
    scorer = Scorer(stage / classifier.MODEL, normalise=True)
    whole = fasttext.load_model(os.fspath(whole_model(folder, stage)))
    ours = Relevant(stage / classifier.MODEL, normalise=True, threshold=0.4, out=folder / "kept")
    rows_of_table = [
        ("read", lambda: consume(documents.Read(read).run(None))),
        ("normalise", lambda: consume(map(normalising.normalised, texts))),
        ("normalise, the recipe's steps one by one", lambda: consume(map(literally, texts))),
        ("fastText, small model", lambda: consume(scorer._predict(line, 1, 0.0, "strict") for line in lines)),
        ("fastText, whole model", lambda: consume(whole.f.predict(line.decode(), 1, 0.0, "strict") for line in lines)),
        ("fastText, whole model, as datatrove's filter asks", lambda: consume(whole.predict(line[:-1].decode(), k=-1) for line in lines)),
        ("**read, relevance, write**", lambda: consume(pipeline(read, ours, folder / "kept"))),
    ]  # fmt: skip
    found = [(name, least_seconds(work) / len(asked)) for name, work in rows_of_table]
    reference = next(seconds for name, seconds in found if name.startswith("**"))
    sizes = [file.stat().st_size / 1e6 for file in (stage / classifier.MODEL, folder / "whole.bin")]
    return markdown(
        ["one core", "documents/s", "µs a document", "times the whole pipeline's time"],
        ([name, f"{1 / each:,.0f}", f"{each * 1e6:.0f}", f"{each / reference:.2f}"] for name, each in found),
        f"Model files: small {sizes[0]:.0f} MB, whole {sizes[1]:,.0f} MB.",
    )


def whole_model(folder: Path, stage: Path) -> Path:
    """As trained, before it is made small."""
    config = Classifier(**{**artifacts.finished(stage)["config"], "annotations": folder / "annotations"})
    found = classifier.examples(folder / "annotations" / classifier_run.ANNOTATIONS, positive_from=3, seed=config.seed)
    trained = classifier.balanced(classifier.split(found, held_out_share=config.held_out_share)[0])
    lines = folder / "lines.txt"
    with lines.open("wb") as stream:
        for example, text in zip(
            trained, classifier.texts(folder / "annotations" / classifier_run.ANNOTATIONS, trained), strict=True
        ):
            stream.write(classifier.label(example) + b" " + normalising.normalised(text) + b"\n")
    classifier.train(config, lines, verbose=False).save_model(os.fspath(folder / "whole.bin"))
    return folder / "whole.bin"


def pipeline(read: Path, relevant: Relevant, out: Path) -> Iterator[object]:
    yield from documents.Write(out).run(relevant.run(documents.Read(read).run(None)))


def literally(text: str) -> str:
    words: list[str] = []
    for token in WORD_PUNCT.findall(unicodedata.normalize("NFKC", text)):
        token = token.lower()
        if token.isdigit():
            words.append("<NUM>")
        elif len(token) <= 100:
            words += re.sub(r"[^a-z0-9 ]", "", re.sub(r"[-_]", " ", token)).split()
    return " ".join(words)


def consume(items: Iterable[object]) -> None:
    for _ in items:
        pass


def least_seconds(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(TURNS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def thresholds(stage: Path) -> str:
    lines = (stage / classifier_run.THRESHOLDS).read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines if line.startswith("all,")]
    chosen = [row for row in rows if float(row[1]) in SHOWN]
    return markdown(
        ["threshold", "precision", "recall", "F1", "kept"],
        ([row[1], row[5], row[6], row[7], row[4]] for row in chosen),
        f"Held out: {chosen[0][2]} documents, {chosen[0][3]} of them positives.",
    )


def normalisation(stages: dict[bool, Path], asked: Sequence[Labelled], others: Mapping[str, Sequence[Labelled]]) -> str:
    sets = {name: reformatted(asked, change) for name, change in FORMATS.items()} | dict(others)
    rows = []
    for name, given in sets.items():
        row = [name]
        for normalise in (False, True):
            at = measured(Scorer(stages[normalise] / classifier.MODEL, normalise=normalise), given)
            row += [str(at.precision), str(at.recall), str(at.f1)]
        rows.append(row)
    head = [
        "asked about",
        *(f"{part}, {how}" for how in ("as it is", "normalised") for part in ("precision", "recall", "F1")),
    ]
    return markdown(head, rows, "At threshold 0.4, the same training documents and settings for both.")


def reformatted(asked: Sequence[Labelled], change: Callable[[str, random.Random], str]) -> list[Labelled]:
    source = random.Random(SEED)
    return [Labelled(change(each.text, source), each.points) for each in asked]


def measured(scorer: Scorer, given: Sequence[Labelled]) -> curves.Point:
    scores = np.array([scorer.score(each.text) for each in given])
    labels = np.array([each.points >= TRAINED_WITH.positive_from for each in given])
    return curves.point(curves.ALL, scores, labels, TRAINED_WITH.threshold)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], legend: str) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return f"{legend}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
