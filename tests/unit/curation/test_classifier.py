"""Who is trained on, what the small model says, and what the table says about it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_octo.config import override
from megatron_octo.curation.config import Classifier, Relevance
from megatron_octo.curation.scoring import classifier, classifier_run, curves
from megatron_octo.curation.scoring.classifier import Example, Scorer
from megatron_octo.curation.scoring.curves import HeldOut
from megatron_octo.curation.scoring.normalising import normalised
from megatron_octo.errors import ConfigError, CorpusError

SMALL = Classifier(dim=8, buckets=1_000, min_count=1, epochs=25, lr=0.5)
TABLE = HeldOut(
    scores=np.array([0.9, 0.8, 0.4, 0.3]),
    labels=np.array([True, False, True, False]),
    years={"2015": [0, 1], "2020": [2, 3]},
)


def made(count: int, *, year: str = "2019", positives: int = 0, first: int = 0) -> list[Example]:
    return [
        Example(key=number.to_bytes(4, "big"), year=year, is_positive=number - first < positives, offset=0)
        for number in range(first, first + count)
    ]


def counted(among: Sequence[Example]) -> dict[tuple[str, bool], int]:
    return dict(Counter((example.year, example.is_positive) for example in among))


def annotations(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def row(text: str, score: int = 3) -> dict[str, object]:
    return {"id": text, "year": "2019", "score": score, "text": text, "answer": "..."}


def test_every_year_and_class_is_held_out_alike() -> None:
    among = [*made(50, year="2015", positives=10), *made(100, year="2020", positives=60, first=100)]
    rest, held_out = classifier.split(among, held_out_share=0.1)
    assert counted(held_out) == {("2015", False): 4, ("2015", True): 1, ("2020", False): 4, ("2020", True): 6}
    assert sorted(rest + held_out, key=lambda example: example.key) == among


def test_as_many_of_each_class() -> None:
    among = [*made(40, year="2015", positives=4), *made(80, year="2020", positives=8, first=100)]
    assert counted(classifier.balanced(among)) == {
        ("2015", False): 4, ("2015", True): 4, ("2020", False): 8, ("2020", True): 8
    }  # fmt: skip
    assert classifier.balanced(made(10)) == []


@pytest.mark.parametrize(("positives", "held_out"), [(19, 30), (40, 4)])
def test_too_few_of_a_class(positives: int, held_out: int) -> None:
    with pytest.raises(CorpusError, match="3 points or more"):
        classifier.require_enough(
            made(80, positives=positives), made(2 * held_out, positives=held_out), positive_from=3
        )


def test_of_what_there_is_too_little_is_said_before_the_classes_are_balanced(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    annotations(tmp_path / "scores" / "annotations.jsonl", *(row(f"text {number}", 0) for number in range(100)))
    config = Classifier(annotations=tmp_path / "scores")
    with pytest.raises(CorpusError, match="to train on, 0 have 3 points or more and 90 have fewer"):
        classifier_run.run(config, tmp_path / "classifier", force=False)


def test_examples_are_texts_seen_once(tmp_path: Path) -> None:
    file = annotations(tmp_path / "a.jsonl", row("one", 2), row("two\u2028", 3), row("one", 5))
    found = classifier.examples(file, positive_from=3, seed=1)
    assert {text: each.is_positive for text, each in zip(classifier.texts(file, found), found, strict=True)} == {
        "one": False, "two\u2028": True
    }  # fmt: skip
    assert [each.key for each in found] == sorted(each.key for each in found)
    assert [each.key for each in found] != [each.key for each in classifier.examples(file, positive_from=3, seed=2)]


@pytest.mark.parametrize("damaged", ["x", 3, {"year": "2019"}, row("two") | {"score": "3"}])
def test_damaged_annotations_are_named(tmp_path: Path, damaged: object) -> None:
    file = annotations(tmp_path / "a.jsonl", row("one"), damaged)
    with pytest.raises(CorpusError, match="line 2"):
        classifier.examples(file, positive_from=3, seed=1)


def trained(folder: Path) -> Path:
    """Lines about sums and about kites."""
    lines = folder / "lines.txt"
    lines.write_text(
        "".join(
            f"{classifier.POSITIVE} the sum of <NUM> and x{n}\n{classifier.NEGATIVE} a red kite y{n}\n"
            for n in range(40)
        )
    )
    return lines


def test_the_small_model_scores_as_the_whole_one(tmp_path: Path) -> None:
    whole = classifier.train(SMALL, trained(tmp_path), verbose=False)
    texts = ["the sum of 7 and x3", "a red kite", "the red sum", "nothing of both", ""]
    probable = {text: _probability(whole, normalised(text).decode()) for text in texts}
    classifier.save_small(whole, tmp_path / "small.bin")
    scorer = Scorer(tmp_path / "small.bin", normalise=True)
    for text in texts:
        assert scorer.score(text) == pytest.approx(probable[text], abs=2e-6), text  # float32 sums in another order
    assert scorer.score("The SUM of 7 and x3") > 0.9
    assert scorer.score("a red\nkite") < 0.1


def _probability(model: Any, line: str) -> float:
    ((probability, label),) = model.f.predict(line + "\n", 1, 0.0, "strict")
    return float(probability - 1e-5 if label == classifier.POSITIVE else 1 - probability + 1e-5)


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    lines = trained(tmp_path)
    for name in ("a", "b"):
        leftover = np.full(SMALL.dim * SMALL.buckets, np.nan, np.float32)
        del leftover  # fastText takes what memory it finds
        classifier.save_small(classifier.train(SMALL, lines, verbose=False), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(CorpusError, match="no model of fastText"):
        Scorer(tmp_path / "model.bin", normalise=True)


@pytest.mark.parametrize(
    ("threshold", "precision", "recall", "kept"),
    [(0.1, 0.5, 1.0, 1.0), (0.4, 0.6667, 1.0, 0.75), (0.85, 1.0, 0.5, 0.25), (0.95, None, 0.0, 0.0)],
)
def test_a_point_of_the_table(threshold: float, precision: float | None, recall: float, kept: float) -> None:
    at = curves.point("all", TABLE.scores, TABLE.labels, threshold)
    assert (at.precision, at.recall, at.kept_share) == (precision, recall, kept)


def test_the_table_has_every_year_and_threshold() -> None:
    lines = curves.as_csv(curves.table(TABLE)).splitlines()
    assert len(lines) == 1 + 3 * 99
    assert lines[0] == "year,threshold,documents,positives,kept_share,precision,recall,f1"
    assert "all,0.4,4,2,0.75,0.6667,1.0,0.8" in lines
    assert "2020,0.4,2,1,0.5,1.0,1.0,1.0" in lines
    assert "2020,0.5,2,1,0.0,,0.0,0.0" in lines


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_picture_every_time(kind: str) -> None:
    many = HeldOut(
        scores=np.linspace(0, 1, 80), labels=np.arange(80) % 3 > 0, years={"2015": range(40), "2020": range(40, 80)}
    )
    drawn = [curves.image(curves.draw(many, threshold=0.4), kind) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert kind == "png" or b"2015" in drawn[0]


@pytest.mark.parametrize(
    ("config", "assignment"),
    [
        (Classifier(), "positive_from=6"),
        (Classifier(), "positive_from=0"),
        (Classifier(), "held_out_share=1"),
        (Relevance(), "threshold=1.5"),
    ],
)
def test_impossible_settings(config: Classifier | Relevance, assignment: str) -> None:
    with pytest.raises(ConfigError):
        override(config, [assignment])
