"""The study of a published model in miniature, every stage for real: import, continued training, a branch, export, RL, report."""

import dataclasses
import json
from pathlib import Path

import pytest
import tiny_llama

from megatron_octo import artifacts
from megatron_octo.conversion.config import ExportDtype
from megatron_octo.launch import local, provenance
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.plan import planning
from megatron_octo.launch.status import runs
from megatron_octo.launch.study import graph, grounds
from megatron_octo.recipes import text, tiny
from megatron_octo.recipes.study import ModelStudy
from megatron_octo.rl.config import LengthStage
from megatron_octo.training.blend import blend
from megatron_octo.training.config import ModelConfig

#: That of tiny_llama.
MODEL = ModelConfig(
    num_layers=2, hidden_size=32, ffn_hidden_size=64, num_attention_heads=2, num_query_groups=2, kv_channels=16, vocab_size=258,
    max_position_embeddings=128, rotary_base=10_000.0, layernorm_epsilon=1e-6, share_embeddings_and_output_weights=False,
)  # fmt: skip
STEP = tiny.BATCH * tiny.SEQ_LENGTH
SUMS = [(f"{a} + {b} =", str(a + b)) for a in range(10) for b in range(10)]


def of_mine(root: Path) -> ModelStudy:
    """Two steps, a branch of two steps, two steps of RL on what came of it and on what it began with."""
    small = tiny.smoke()
    stable = dataclasses.replace(
        small.stable, name="mine.stable", model=MODEL, init_from="tiny llama", blend=blend(web=1.0), train_tokens=2 * STEP,
        save_interval_tokens=2 * STEP,
    )  # fmt: skip
    branch = stable.branch(
        name="mine.decay", blend=blend(web=0.5, qa=0.5), train_tokens=2 * STEP, schedule=small.branches[0].schedule
    )
    rl = dataclasses.replace(
        small.rl[0], name="mine.rl", init_from=branch.name, eval_sets=("amc23",), max_prompt_tokens=120,
        length_schedule=(LengthStage(from_step=0, max_response_tokens=8),),
    )  # fmt: skip
    control = dataclasses.replace(rl, name="mine.rl_base", init_from="tiny llama")
    return ModelStudy(
        name="mine.study",
        stable=stable,
        branches=(branch,),
        rl=(control, rl),
        world_size=2,
        export_dtype=ExportDtype.FP32,
        texts=(text.curated("web"), text.curated("qa")),
        base_suite="amc23",
        rl_suite="amc23",
        eval_batch_size=4,
        eval_max_new_tokens=8,
        corpora=root / "corpora",
        base=root / "base",
        prompts=root / "prompts.jsonl",
        eval_sets=root / "sets",
        benchmarks=root / "sets",
    )


def write_what_the_user_has(root: Path) -> None:
    tiny_llama.make(root / "base", ["1 + 1 = 2", "2 + 3 = 5"], steps=1)
    for corpus in ("web", "qa"):
        (root / "corpora" / corpus).mkdir(parents=True)
        lines = (json.dumps({"text": f"{corpus}: {question} {answer}. " * 4}) for question, answer in SUMS)
        (root / "corpora" / corpus / "part.jsonl").write_text("\n".join(lines) + "\n")
    questions = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in SUMS]
    (root / "prompts.jsonl").write_text("".join(questions[4:]))
    (root / "sets").mkdir()
    (root / "sets" / "amc23.jsonl").write_text("".join(questions[:4]))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """The jobs of a finished study by name."""
    root = tmp_path_factory.mktemp("model-study")
    write_what_the_user_has(root)
    study = of_mine(root)
    grounds.require_inputs(study)
    jobs = graph.jobs(study, root / "run", command="megatron-octo study mine:study")
    provenance.record(jobs, None, command="megatron-octo study mine:study")
    local.run(jobs)
    return {job.name: job for job in jobs}


@pytest.mark.slow
def test_every_stage_is_done(done: dict[str, Job]) -> None:
    assert list(done) == [
        "shards/web", "shards/qa", "import", "overlap", "stable", "decay", "base_eval/base", "rl/base/seed0", "rl_eval/base/seed0",
        "hf/decay", "base_eval/decay", "rl/decay/seed0", "rl_eval/decay/seed0", "report",
    ]  # fmt: skip
    assert all(artifacts.is_done(job.out) for job in done.values())
    again = planning.plan(list(done.values()), None, None)
    assert [stage.name for stage in again.stages if not stage.done] == ["report"]


@pytest.mark.slow
def test_training_goes_on_from_the_published_model(done: dict[str, Job]) -> None:
    ancestors = json.loads((done["decay"].out / "lineage.json").read_text())["ancestors"]
    assert [(ancestor["name"], ancestor["step"]) for ancestor in ancestors] == [("tiny llama", 0), ("mine.stable", 2)]


@pytest.mark.slow
def test_the_export_has_the_published_models_tokenizer(done: dict[str, Job]) -> None:
    base = done["import"].config.source
    for model in (done["hf/decay"].out, done["rl/decay/seed0"].out / "model"):
        assert (model / "config.json").exists()
    assert (done["hf/decay"].out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_the_lineage_is_the_graph(done: dict[str, Job]) -> None:
    study = done["report"].out.parent
    found = {run.stage: run for run in runs.read(study).runs}
    assert found.keys() == done.keys()
    for name, job in done.items():
        fed = {feed.stage for feed in found[name].feeds} - {None}
        # An export's files come from the import; the graph need not say so, it comes before all.
        assert fed == set(job.needs) | ({"import"} if name == "hf/decay" else set()), name
        assert found[name].command == "megatron-octo study mine:study"
        assert not any(feed.changed for feed in found[name].feeds)


@pytest.mark.slow
def test_the_report_shows_the_branch(done: dict[str, Job]) -> None:
    page = (done["report"].out / "report.html").read_text()
    assert "megatron-octo study mine:study" in page
    assert "Does decay gain more from reinforcement learning than base, the control?" in page
