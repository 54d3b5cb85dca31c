"""The data set card: numbers of the steps' marks, and nothing of the machine."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_octo.config import to_dict
from megatron_octo.curation.config import LanguageModel, Reading, Refinement, Relevance, Unique
from megatron_octo.curation.data_sets import card
from megatron_octo.evaluation.config import Source
from megatron_octo.servers import Server

SERVER = Server(url="http://10.1.2.3:8000/v1", model="meta-llama/Llama-3.3-70B-Instruct")
VERSIONS = {"python": "3.11.7", "megatron-octo": "0.1.0", "datatrove": "0.10.1", "tiktoken": "0.9"}


def step(name: str, config: Any, **counts: Any) -> card.Step:
    mark = {"config": to_dict(config), "counts": counts, "versions": VERSIONS, "git_commit": "abc123"}
    return card.step_of(name, mark)


READ = step(
    "documents",
    Reading(inputs=("/secret/place/CC-MAIN-2019-13",)),  # type: ignore[arg-type]
    rows_total=1_010, rows_forwarded=1_000, rows_dropped=10, rows_dropped_bad_row=10, rows_damaged_files=1,
    language_total=1_000, language_forwarded=900, language_dropped=100, language_dropped_other=100,
    quality_total=900, quality_forwarded=800, quality_dropped=100, quality_dropped_too_short=100, quality_dropped_long=0,
    kept_documents=800, kept_characters=160_000, kept_year_2019=500, kept_year_2014=290, kept_year_unknown=10,
)  # fmt: skip
RELEVANT = step(
    "relevant", Relevance(threshold=0.4), read_documents=800,
    relevant_total=800, relevant_forwarded=200, relevant_dropped=600, relevant_dropped_score_below_threshold=600,
    kept_documents=200, kept_characters=50_000, kept_year_2019=180, kept_year_2014=20,
)  # fmt: skip
UNIQUE = step(
    "unique", Unique(benchmarks=(Source(name="gsm8k"), Source(name="math500"))), read_documents=200,
    benchmarks_total=200, benchmarks_forwarded=197, benchmarks_dropped=3, benchmarks_dropped_benchmark_gsm8k=3,
    benchmarks_dropped_benchmark_math500=0, benchmarks_questions_gsm8k=1_319, benchmarks_questions_math500=500,
    kept_documents=197, kept_characters=49_000, kept_year_2019=177, kept_year_2014=20,
)  # fmt: skip
REFINED = step(
    "refined", Refinement(model=LanguageModel(server=SERVER)), read_documents=197,
    refined_total=197, refined_forwarded=190, refined_dropped=7, refined_dropped_refusal=7, refined_prompt_tokens=20_000,
    refined_answer_tokens=12_000, kept_documents=190, kept_characters=41_000, kept_year_2019=171, kept_year_2014=19,
)  # fmt: skip
TEXT = card.text("my_math", [READ, RELEVANT, UNIQUE, REFINED], last=REFINED)


@pytest.mark.parametrize(
    "line",
    [
        "190 documents, 41,000 characters, curated with megatron-octo.",
        "| documents | 1,010 | 800 | 79.21% | 160,000 |",
        "| documents | rows | bad row | 10 | 0.99% |",
        "1 raw file could not be read to the end; what came before the damage is in.",
        "| relevant | 800 | 200 | 25.00% | 50,000 |",
        "| documents | language | other | 100 | 9.90% |",
        "| relevant | relevant | score below threshold | 600 | 75.00% |",
        "| refined | refined | refusal | 7 | 3.55% |",
        "| year | documents | relevant | unique | refined |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 2014 | 290 | 20 | 20 | 19 |",
        "| unknown | 10 | 0 | 0 | 0 |",
        "| refined | meta-llama/Llama-3.3-70B-Instruct | 0 | megatron-octo's | 20,000 | 12,000 |",
        "| gsm8k | 1,319 | 3 |",
        "| math500 | 500 | 0 |",
        "| relevant | threshold | 0.4 |",
        "| documents | language.min\\_score | 0.65 |",
        "**It applies here**: meta-llama/Llama-3.3-70B-Instruct was asked.",
        "| datatrove | 0.10.1 |",
        "| code | abc123 |",
    ],
)
def test_lines(line: str) -> None:
    assert line in TEXT.split("\n")


def test_drops_that_did_not_happen_are_not_listed() -> None:
    assert "| quality | long |" not in TEXT


def test_nothing_of_the_machine() -> None:
    for word in ("/secret", "10.1.2.3", "workers", "tokens_per_second_per_gpu"):
        assert word not in TEXT


@pytest.mark.parametrize("above", ["/lustre/me/runs", "runs", "../runs"])
def test_stages_and_files_go_by_their_names_however_they_are_given(above: str) -> None:
    inputs = (Path(above, "CC-MAIN-2019-13"),)
    found = [
        step("documents", Reading(inputs=inputs), kept_documents=1),
        step(
            "refined", Refinement(documents=Path(above, "unique"), model=LanguageModel(server=SERVER)), kept_documents=1
        ),
    ]
    text = card.text("my_math", found, last=found[-1])
    assert "runs" not in text
    assert '"documents": "unique"' in text
    assert '"model": "meta-llama/Llama-3.3-70B-Instruct"' in text


def test_what_the_hub_reads() -> None:
    head = yaml.safe_load(TEXT.split("---")[1])
    assert head == {
        "pretty_name": "my_math",
        "language": ["en"],
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": "data/*.parquet"}],
    }


def test_without_benchmarks_and_models() -> None:
    text = card.text("my_math", [READ], last=READ)
    assert "No benchmark was looked for: documents may hold test questions." in text
    assert "Language models asked" not in text
    assert "It applies here" not in text


def test_the_stand_in_is_called_by_its_name() -> None:
    text = card.text(
        "trial", [step("refined", Refinement(model=LanguageModel()), kept_documents=1, kept_characters=2)], last=READ
    )
    assert "| refined | none: a stand-in that answers by rule | 0 |" in text


@pytest.mark.parametrize(
    ("num_rows", "category"),
    [
        (0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (69_200_000, "10M<n<100M"), (999_999_999_999, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)  # fmt: skip
def test_size_categories(num_rows: int, category: str) -> None:
    assert card.size_category(num_rows) == category
