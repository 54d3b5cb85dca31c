"""The page as a reader gets it."""

import base64
import csv
import dataclasses
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_study import ACCURACY, HOSTILE, make_study

from megatron_octo import artifacts
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.plotting import results
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.report import MAX_SHOWN_CHARACTERS, samples
from megatron_octo.plotting.results import Evaluated, ModelResults
from megatron_octo.plotting.run import run

FIGURES = (
    "base_to_rl", "all_benchmarks", "pass_at_k", "rl_accuracy", "rl_length", "mid_training", "corpus_losses",
)  # fmt: skip


class Page(HTMLParser):
    """The addresses that tags load, ids, texts of table rows, of scripts and of preformatted parts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.loaded += [given[name] for name in ("src", "srcset") if name in given]
        self.links += [given["href"]] if "href" in given else []
        self.ids |= {given["id"]} if "id" in given else set()
        if tag == "tr":
            self.rows.append([])
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = "" if tag == self._within else self._within

    def handle_data(self, data: str) -> None:
        if self._within == "pre":
            self.texts.append(data)
        if self._within == "script":
            self.scripts.append(data)
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


@pytest.fixture(scope="module")
def html(study: tuple[Report, Path]) -> str:
    return (study[1] / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_table_shows_the_numbers_of_the_files(page: Page) -> None:
    row = next(row for row in page.rows if row[0] == "long" and row[1] == "2 RL seeds")
    assert row[2:5] == ["30.0 %", "15.8 to 44.2", "70.0 %"]
    assert (row[6], row[8]) == ("+40.0", "+35.0")
    assert row[10:13] == ["60 → 110", "12 % → 12 %", "88 % → 88 %"]


def test_the_head_asks_and_answers(html: str) -> None:
    assert "Does long, short or hybrid gain more from reinforcement learning than stable, the control?" in html
    assert "On the 40 questions of GSM8K reinforcement learning changed accuracy by +5.0 points for stable" in html


def test_texts_of_models_and_people_are_escaped(html: str, page: Page) -> None:
    assert page.tags.count("script") == 1
    assert "alert" not in page.scripts[0]
    assert "<tiny>" not in html
    assert (
        page.texts.count(HOSTILE) == 3 * 8 + 1
    )  # three samples of four models before and after, one found in a corpus


def test_the_script_is_the_one_the_policy_names(html: str, page: Page) -> None:
    sha256 = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{sha256}'" in html


def test_nothing_is_loaded_from_elsewhere(html: str, page: Page) -> None:
    assert len(page.loaded) == 2 * len(FIGURES)
    assert all(address.startswith("data:image/png;base64,") for address in page.loaded)
    assert all(address.startswith(("#", "data:")) for address in page.links)
    assert not re.search(r"url\(|@import", html)
    assert "link" not in page.tags


def test_every_entry_of_the_contents_leads_somewhere(page: Page) -> None:
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_light_and_dark_and_narrow(html: str) -> None:
    assert html.count("prefers-color-scheme: dark") == 1 + len(FIGURES)
    assert 'name="viewport"' in html
    assert "max-width: 45rem" in html


def test_lineage_stages_and_command_are_there(html: str, page: Page) -> None:
    assert ["long", "stable at 61.4K tokens", "30.7K", "92.2K", "web 40 %, qa_long 40 %, qa 20 %"] in page.rows
    assert next(row for row in page.rows if row[0] == "world")[3] == "documents 12,000"
    assert "megatron-octo study tiny --seeds 2" in page.texts


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_saved_with_their_numbers(study: tuple[Report, Path], name: str) -> None:
    figures = study[1] / "figures"
    for file in (figures / f"{name}.png", figures / f"{name}_dark.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
    with (figures / f"{name}.csv").open() as stream:
        assert {row["model"] for row in csv.DictReader(stream)} == {"stable", "long", "short", "hybrid"}


def test_all_benchmarks_are_shown_and_small_ones_marked(page: Page) -> None:
    gsm8k = next(row for row in page.rows if row[:2] == ["GSM8K", "long"] and "8 → 0" in row)
    math500 = next(row for row in page.rows if row[:2] == ["MATH500", "long"] and "8 → 0" in row)
    assert gsm8k[2:7] == ["40", "⚠ few: ± 14.2 points", "30.0 %", "15.8 to 44.2", "70.0 %"]
    assert math500[2:5] == ["120", "15.0 %", "8.6 to 21.4"]


def test_pass_at_k_and_majority_have_rows(page: Page) -> None:
    base = [row for row in page.rows if row[:3] == ["long", "base", "GSM8K"]]
    # 1 - 0.7^k; the majority of answers that are all the same is no better than one.
    assert [(row[4], row[5], row[7], row[9]) for row in base] == [
        ("pass@k", "30.0 %", "51.0 %", "76.0 %"),
        ("maj@k", "30.0 %", "30.0 %", "30.0 %"),
    ]


def test_questions_found_in_corpora_are_listed(html: str, page: Page) -> None:
    assert ["GSM8K", "0.0 %", "0 of 130; 2 too short", "2.3 %", "3 of 130; 2 too short"] in page.rows
    assert "13 words in a row stand in a document" in html
    assert "web 1,000 of 12,000;" in html
    assert "… 13 words in a row …" in page.texts


def test_alarms_stand_at_their_run(page: Page) -> None:
    runs = [row for row in page.rows if row[0] in ACCURACY and row[2:3] == ["24"]]
    assert [row for row in runs if row[3] != "none"] == [
        ["short", "2", "24", "1",
         "⚠ step 16, truncation: 52% of the responses reached the cap (limit 50%); it began after step 12"],
    ]  # fmt: skip
    assert len(runs) == 8


def test_tables_are_saved_as_numbers(study: tuple[Report, Path]) -> None:
    with (study[1] / "tables" / "headline.csv").open() as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    assert rows["long"]["base"] == "0.3"
    assert float(rows["long"]["gain"]) == pytest.approx(0.4)
    assert rows["long"]["tokens_per_response_after_rl"] == "110.0"
    assert rows["stable"]["gain_over_control"] == ""
    with (study[1] / "tables" / "overlap.csv").open() as stream:
        assert [row["qa_found"] for row in csv.DictReader(stream)] == ["3", "0"]


def test_a_study_that_grew_gets_a_new_report(tmp_path: Path) -> None:
    one_seed = make_study(tmp_path / "study", seeds=(1,))
    run(one_seed, tmp_path / "report", False)
    run(make_study(tmp_path / "study", seeds=(1, 2)), tmp_path / "report", False)
    assert "over 2 RL seeds" in (tmp_path / "report" / "report.html").read_text()


def test_another_stage_is_not_overwritten(study: tuple[Report, Path]) -> None:
    training = study[0].models[0].training
    with pytest.raises(ArtifactError, match="holds a train stage, not report"):
        run(study[0], training, False)
    assert (training / "metrics.jsonl").exists()


def test_a_study_without_rl_says_so(tmp_path: Path) -> None:
    report = make_study(tmp_path, seeds=())
    shutil.rmtree(report.models[3].base_evaluation)
    run(report, tmp_path / "report", False)
    html = (tmp_path / "report" / "report.html").read_text()
    assert "there is no answer" in html
    assert "stable: no reinforcement learning was run." in html
    assert "eval/hybrid: the stage is not there or did not finish." in html
    assert artifacts.finished(tmp_path / "report")["counts"]["figures"] == 5


def test_a_study_without_anything_says_so(tmp_path: Path) -> None:
    report = make_study(tmp_path, seeds=())
    for stage in report.all_stages:
        shutil.rmtree(stage)
    run(report, tmp_path / "report", False)
    assert "No mid-training run has finished yet." in (tmp_path / "report" / "report.html").read_text()


def test_a_benchmark_that_one_model_was_not_asked_is_missing(tmp_path: Path) -> None:
    report = make_study(tmp_path, seeds=())
    scores = report.models[1].base_evaluation / "scores.json"
    scores.write_text(json.dumps({"gsm8k": json.loads(scores.read_text())["gsm8k"]}))
    assert "long: the base model was not evaluated on math500." in results.missing(report, results.read(report))


def test_a_broken_line_is_named_and_no_report_is_left(tmp_path: Path) -> None:
    report = make_study(tmp_path, seeds=())
    metrics = report.models[0].training / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"step": \n')
    with pytest.raises(ArtifactError, match=r"metrics.jsonl:2 is not JSON"):
        run(report, tmp_path / "report", False)
    assert not (tmp_path / "report" / "report.html").exists()


def test_samples_are_spread_over_the_test_set_and_long_ones_cut() -> None:
    rows = tuple(
        {"index": n, "sample": 0, "question": f"q{n}", "answer": "1", "response": "x" * 2_500, "correct": n == 0,
         "num_tokens": 900, "finish_reason": "length"}
        for n in reversed(range(10))  # an engine may answer the longest first
    )  # fmt: skip
    base = {"gsm8k": Evaluated(scores={}, samples=rows)}
    chosen = samples([ModelResults(name="stable", training=None, base=base, rl=(), after=())], "gsm8k", 2)
    assert [sample["question"] for sample in chosen] == ["q0", "q5"]
    (response,) = chosen[0]["responses"]
    assert response["text"] == "x" * MAX_SHOWN_CHARACTERS + "\n[500 more characters]"
    assert response["note"] == "900 tokens, cut off at the length cap"
    assert response["correct"]


def test_models_need_different_names(study: tuple[Report, Path]) -> None:
    with pytest.raises(ConfigError, match="different names"):
        dataclasses.replace(study[0], models=study[0].models[:1] * 2)
