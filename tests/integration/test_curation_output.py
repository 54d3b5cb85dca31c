"""What curation gives is what tokenisation takes: a published corpus, and an imported one; kills change neither."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tokenizers import Tokenizer

from megatron_octo import artifacts
from megatron_octo.config import dumps
from megatron_octo.curation import documents
from megatron_octo.curation.config import Importing, InParts, Publication, Published
from megatron_octo.curation.data_sets import importing_run, publishing_run
from megatron_octo.shards import open_corpus
from megatron_octo.tokenization import run as tokenize
from megatron_octo.tokenization import train_tokenizer
from megatron_octo.tokenization.config import Tokenization, TokenizerTraining

TEXTS = ["One and one is 2.", "Déjà vu: $x^2$\n\n漢字", "Ten is more than seven."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    (directory / "text.jsonl").write_text(json.dumps({"text": " ".join(TEXTS)}) + "\n")
    config = TokenizerTraining(
        inputs=(directory / "text.jsonl",), vocab_size=270, max_documents_per_input=10, model_max_length=64
    )
    train_tokenizer.run(config, directory / "made", False)
    return directory / "made"


def tokenized(text: Path, tokenizer: Path, out: Path) -> list[str]:
    """The documents of a corpus, decoded from its shards."""
    config = Tokenization(corpus="math", inputs=(text,), tokenizer=tokenizer, shuffle_seed=None, append_eod=False)
    tokenize.run(config, out, False)
    reader = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    shards = open_corpus(out).shards
    return [reader.decode(shard.document(number).tolist()) for shard in shards for number in range(shard.num_documents)]


def test_a_published_corpus(tmp_path: Path, tokenizer: Path) -> None:
    step = tmp_path / "refined"
    with artifacts.stage(step, kind="refined", config=InParts(parts=3)) as stage:
        (step / documents.FOLDER).mkdir()
        for part, texts in enumerate((TEXTS[:2], [], TEXTS[2:])):
            lines = b"".join(documents.line_of(f"{part}/{number}", text, {}) for number, text in enumerate(texts))
            documents.file_of(step, part).write_bytes(zstandard.compress(lines))
        stage.counts |= {"kept_documents": 3, "kept_characters": sum(map(len, TEXTS))}
    publishing_run.run(Publication(documents=step, parts=3), tmp_path / "corpus", False)
    assert tokenized(tmp_path / "corpus" / "data", tokenizer, tmp_path / "shards") == TEXTS


def test_an_imported_corpus(tmp_path: Path, tokenizer: Path) -> None:
    rows = [{"problem": text, "generated_solution": "So it is."} for text in TEXTS]
    source = tmp_path / "data" / "train-00000.jsonl"
    source.parent.mkdir()
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Importing(corpus=Published.OPENMATHINSTRUCT2, inputs=(source.parent,), parts=1)
    importing_run.run(config, tmp_path / "imported", False)
    found = tokenized(tmp_path / "imported" / "documents", tokenizer, tmp_path / "shards")
    assert found == [f"{text}\nSo it is." for text in TEXTS]


def killed_after_a_part(module: str, config: Any, out: Path) -> None:
    """Run a stage in a process group of its own and kill all of it as soon as one part is made and another is not."""
    file = out.with_suffix(".config.json")
    file.write_text(dumps(config))
    command = [sys.executable, "-m", f"megatron_octo.curation.{module}", str(file), str(out)]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as stage:
        while not list((out / "logs" / "documents" / "completions").glob("*")):
            assert stage.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.killpg(stage.pid, signal.SIGKILL)
    assert not artifacts.is_done(out)


def test_a_kill_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "dclm"
    data.mkdir()
    for part in range(4):
        lines = (json.dumps({"text": f"{part} {number} " + 200 * "word "}) for number in range(10_000))
        (data / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    importing = Importing(corpus=Published.DCLM_BASELINE, inputs=(data,), parts=4)
    publication = Publication(documents=tmp_path / "whole", parts=4)
    importing_run.run(importing, tmp_path / "whole", False)
    publishing_run.run(publication, tmp_path / "whole_corpus", False)
    killed_after_a_part("data_sets.importing_run", importing, tmp_path / "broken")
    importing_run.run(importing, tmp_path / "broken", False)
    killed_after_a_part("data_sets.publishing_run", publication, tmp_path / "broken_corpus")
    publishing_run.run(publication, tmp_path / "broken_corpus", False)
    for whole, broken in (("whole", "broken"), ("whole_corpus", "broken_corpus")):
        one, other = artifacts.finished(tmp_path / whole), artifacts.finished(tmp_path / broken)
        assert (one["outputs"], one["counts"]) == (other["outputs"], other["counts"])
