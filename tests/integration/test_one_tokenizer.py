"""Training on tokens of another tokenizer would run without any error, on noise: it is refused."""

from pathlib import Path

import pytest
import tiny_training as tiny

from megatron_octo import artifacts
from megatron_octo.errors import CorpusError
from megatron_octo.shards import TOKENIZER_SHA256
from megatron_octo.training.blend import blend
from megatron_octo.training.config import TrainingJob
from megatron_octo.training.corpora import open_corpora

OTHER = "0" * 64


def job(root: Path, *, parent: Path | None = None, corpora: tuple[str, ...] = ("prose", "code")) -> TrainingJob:
    recipe = tiny.phase("run", steps=1, blend=blend(**dict.fromkeys(corpora, 1 / len(corpora))))
    return TrainingJob(recipe=recipe, shards=root, init_checkpoint=parent)


def model(directory: Path, **counts: str) -> Path:
    """A finished stage to start from, which knows its tokenizer or does not."""
    with artifacts.stage(directory, kind="train", config={}) as stage:
        stage.counts |= counts
    return directory


def test_corpora_of_one_blend(tmp_path: Path) -> None:
    tiny.write_shards(tmp_path, "prose", windows=5, seed=1)
    tiny.write_shards(tmp_path, "code", windows=5, seed=2)
    assert list(open_corpora(job(tmp_path))) == ["prose", "code"]


def test_two_tokenizers_in_one_blend(tmp_path: Path) -> None:
    tiny.write_shards(tmp_path, "prose", windows=5, seed=1)
    tiny.write_shards(tmp_path, "code", windows=5, seed=2, tokenizer=OTHER)
    with pytest.raises(
        CorpusError,
        match=r"corpus 'code' in .*code was tokenised with another tokenizer \(000000000000\) than the corpus",
    ):
        open_corpora(job(tmp_path))


@pytest.mark.parametrize("counts", [{}, {TOKENIZER_SHA256: tiny.NO_TOKENIZER}])
def test_a_model_with_this_tokenizer_or_none_known(tmp_path: Path, counts: dict[str, str]) -> None:
    tiny.write_shards(tmp_path, "prose", windows=5, seed=1)
    parent = model(tmp_path / "parent", **counts)
    assert list(open_corpora(job(tmp_path, parent=parent, corpora=("prose",)))) == ["prose"]


def test_a_model_with_another_tokenizer(tmp_path: Path) -> None:
    tiny.write_shards(tmp_path, "prose", windows=5, seed=1)
    parent = model(tmp_path / "parent", **{TOKENIZER_SHA256: OTHER})
    with pytest.raises(CorpusError, match=r"'prose' .* another tokenizer \(.*\) than the model in .*parent"):
        open_corpora(job(tmp_path, parent=parent, corpora=("prose",)))
