"""The command line as people use it: it answers at once, and a mistake is one message, exit code 2 and nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from megatron_octo import artifacts, cli
from megatron_octo.launch import verbs

LAB = """
import dataclasses
from megatron_octo.recipes import tiny
from megatron_octo.recipes.study import Study
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining

def uneven() -> MidTraining:
    return dataclasses.replace(tiny.stable(), blend=blend(web=0.9, qa=0.2))

def rl() -> ReinforcementLearning:
    return tiny.rl_stable()

def greedy() -> Study:
    return dataclasses.replace(tiny.smoke(), needs_bytes=10**21)
"""
#: Packages that must not be needed to answer.
HEAVY = ("torch", "numpy", "megatron", "transformers")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files the verbs ask for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "questions.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')
    (tmp_path / "a_lab.py").write_text(LAB)
    (tmp_path / "tok").mkdir()
    save_model(tmp_path / "hf")
    with artifacts.stage(tmp_path / "imported", kind="convert", config={}) as stage:
        (stage.directory / "checkpoints").mkdir()
    for corpus in ("web", "general", "code", "qa", "qa_long", "instruction"):
        with artifacts.stage(tmp_path / "shards" / corpus, kind="tokenize", config={}):
            pass
    for name in ("stable", "model"):
        with artifacts.stage(tmp_path / name, kind="train", config={}):
            pass
    for study, training in (("finished", "stable"), ("moved", "elsewhere")):
        report = tmp_path / study / "logs" / "report"
        report.mkdir(parents=True)
        model = {"name": "stable", "training": training, "base_evaluation": "b"}
        (report / "config.json").write_text(json.dumps({"title": "t", "command": "c", "models": [model]}))
    return tmp_path


def save_model(directory: Path) -> None:
    """A Hugging Face directory: one layer of Llama, no tokenizer."""
    directory.mkdir()
    config = {
        "model_type": "llama", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    }  # fmt: skip
    rows = {
        "self_attn.q_proj": (8, 8), "self_attn.k_proj": (8, 8), "self_attn.v_proj": (8, 8), "self_attn.o_proj": (8, 8),
        "mlp.gate_proj": (16, 8), "mlp.up_proj": (16, 8), "mlp.down_proj": (8, 16), "input_layernorm": (8,),
        "post_attention_layernorm": (8,),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (32, 8), "model.norm.weight": (8,)} | {
        f"model.layers.0.{name}.weight": shape for name, shape in rows.items()
    }
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    """The exit code of `megatron-octo LINE`."""
    monkeypatch.setattr(sys, "argv", ["megatron-octo", *line.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    code = end.value.code
    return code if isinstance(code, int) else 0


def files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("line", ["--help", "list", "show llama32_3b.decay_long --nodes 8", "study tiny --dry-run"])
def test_it_answers_within_a_second_without_torch(line: str, tmp_path: Path) -> None:
    for package in HEAVY:
        (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    code = f"import sys; sys.argv = {['megatron-octo', *line.split()]!r}; from megatron_octo import cli; cli.main()"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    used = []
    for _ in range(2):  # the first may find cold caches
        before = os.times()
        answer = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
        )
        after = os.times()
        assert (answer.returncode, answer.stderr) == (0, "")
        # Processor time: what other processes of the machine do is not our doing.
        used.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(used) < 1.0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("study tiny.smoke --out out", "megatron_octo.plotting.run out/logs/report/config.json out/report"),
        ("study tiny --seeds 2 --out out", "out/rl/decay_long/seed1"),
        ("curate tiny.world --out out", "python -m megatron_octo.curation.run out.logs/config.json out"),
        ("tokenize web --input text.jsonl --tokenizer tok --out out", "megatron_octo.tokenization.run"),
        ("train tiny.stable --shards shards --out out", "python -m megatron_octo.training.run"),
        (
            "train tiny.stable --shards shards --ranks 2 --out out",
            "torchrun --nproc-per-node 2 -m megatron_octo.training",
        ),
        ("train tiny.decay_long --shards shards --init-from stable --out out", "# decay_long"),
        ("convert to-hf stable out", "megatron_octo.conversion.run"),
        (
            "rl a_lab:rl --model model --prompts questions.jsonl --eval-set test=questions.jsonl --out out",
            "octo.rl.run",
        ),
        ("eval model --dataset questions.jsonl --out out", "megatron_octo.evaluation.run"),
        ("plot finished --out out", "megatron_octo.plotting.run"),
    ],
)
def test_a_dry_run_prints_and_starts_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    before = files(here)
    assert run(monkeypatch, f"{line} --dry-run") == 0
    assert expected in capsys.readouterr().out
    assert files(here) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("show llama32_3b.decay_lang", "unknown recipe 'llama32_3b.decay_lang'; nearest: llama32_3b.decay_long"),
        ("show tiny.stable schedule.peak_rl=1", "has no 'peak_rl'; nearest: peak_lr"),
        ("show tiny.stable train_tokens=many", "train_tokens=many: int expected"),
        (
            "show tiny.stable global_batch_size=16 micro_batch_size=8",
            "8 data-parallel ranks = 64; show assumes --nodes 1 --gpus-per-node 8",
        ),
        ("show a_lab:uneven", "the shares of a blend must sum to 1, these sum to 1.1: web 0.9 + qa 0.2"),
        ("train a_lab:uneven --shards shards --out out", "the shares of a blend must sum to 1"),
        ("show no_lab:run", "no module 'no_lab'"),
        ("study tiny.smok --out out", "unknown recipe 'tiny.smok'; nearest: tiny.smoke"),
        ("study tiny.stable --out out", "recipe 'tiny.stable' is a MidTraining, this verb takes a Study"),
        ("study tiny.smoke --out out --corpus missing.jsonl", "cannot read missing.jsonl: no such file"),
        ("study tiny.smoke --out out --corpus a_lab.py", "a_lab.py: unknown kind of corpus file; allowed are .jsonl"),
        ("study tiny.smoke --out out --on mars", "unknown place 'mars'; allowed: local"),
        ("study tiny.smoke --out out --nodes 2", "the local place is one machine, not 2 nodes"),
        ("study a_lab:greedy --out out", "out needs 1e+09 TB of disk"),
        ("tokenize web --input missing.jsonl --tokenizer tok --out out", "cannot read missing.jsonl: no such file"),
        ("tokenize web --input nothing/*.jsonl --tokenizer tok --out out", "nothing/*.jsonl: no corpus file matches"),
        ("tokenize web --input . --tokenizer tok --out out", "the output out lies in the input directory ."),
        ("tokenize web --tokenizer tok --out out", "--input is missing for the corpus 'web'"),
        ("tokenize web --input text.jsonl --out out", "--tokenizer is missing for the corpus 'web'"),
        ("tokenize text.megamath_web --out out", "unknown recipe 'text.megamath_web'; nearest: text.megamath_web_pro"),
        ("tokenize web --input text.jsonl --tokenizer nowhere --out out", "there is no tokenizer nowhere"),
        ("tokenize web --input text.jsonl --tokenizer tok --out out --tasks 2 --task 2", "task is 2 of 2"),
        ("tokenize web --input text.jsonl --tokenizer tok --out out check_every=0", "check_every is 0"),
        ("curate tiny.world --out out --on mars", "unknown place 'mars'"),
        (
            "train tiny.stable --shards nowhere --out out",
            "reads the corpus 'web', but nowhere/web is no tokenised corpus",
        ),
        ("train tiny.decay_short --shards shards --init-from stable --out out", "reads the corpus 'qa_short'"),
        (
            "train tiny.decay_long --shards shards --out out",
            "decay_long starts from the directory of stable; name it with",
        ),
        ("train tiny.decay_long --shards shards --init-from gone --out out", "gone is no stage directory"),
        (
            "train tiny.stable --shards shards --init-from stable --out out",
            "starts from random weights; --init-from stable",
        ),
        ("train llama32_3b.stable --shards shards --out out", "starts from meta-llama/Llama-3.2-3B"),
        (
            "train tiny.stable --shards shards --ranks 4 --out out global_batch_size=16 micro_batch_size=8",
            "does not divide by micro_batch_size 8 x 4",
        ),
        (
            "convert to-hf gone out",
            "gone is no directory; name a training stage, one of its checkpoints, or a Megatron-LM checkpoint",
        ),
        ("convert from-hf gone out", "gone is no directory; name a Hugging Face model directory"),
        (
            "convert from-hf meta-llama/Llama-3.2-1B out",
            "meta-llama/Llama-3.2-1B is no directory; fetch it first: hf download meta-llama/Llama-3.2-1B --local-dir Llama-3.2-1B",
        ),
        ("convert from-hf hf/config.json out", "hf/config.json is a file; name its directory, hf"),
        ("convert to-hf hf out", "hf is a Hugging Face directory, not a Megatron checkpoint; did you mean from-hf?"),
        (
            "convert from-hf imported out",
            "imported is a Megatron checkpoint, not a Hugging Face directory; did you mean to-hf?",
        ),
        (
            "convert to-hf imported/checkpoints out",
            "imported/checkpoints is the inside of a stage; name the stage, imported",
        ),
        (
            "convert to-hf imported out --tokenizer hf/config.json",
            "--tokenizer hf/config.json is a file; name its directory, hf",
        ),
        ("convert to-hf imported out --reference gone", "--reference gone is no directory; name a directory on this"),
        ("convert from-hf hf hf/out", "the output hf/out lies in the source hf"),
        ("convert from-hf hf out --max-shard-size 5X", "'5X' is no size"),
        ("convert from-hf hf text.jsonl/out", "text.jsonl/out cannot be made: Not a directory"),
        ("convert from-hf hf /proc/out", "/proc/out cannot be made: No such file or directory"),
        (
            "rl a_lab:rl --model model --prompts questions.jsonl --eval-set x=questions.jsonl --out out",
            "evaluates on test",
        ),
        (
            "rl a_lab:rl --model model --prompts gone --eval-set test=questions.jsonl --out out",
            "gone is not a readable file",
        ),
        ("eval model --dataset gone --out out", "gone is not a readable file"),
        ("plot shards --out out", "shards holds no study that reached its report"),
        ("plot moved --out out", "run from the directory it was started in"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    before = files(here)
    assert run(monkeypatch, line) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("error: ") == 1
    assert said.out == ""
    assert files(here) == before


@pytest.mark.parametrize("line", ["fly", "show", "train tiny.stable", "study tiny --seeds 0", "convert sideways a b"])
def test_a_line_that_is_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert run(monkeypatch, line) == 2
    assert "Usage: " in capsys.readouterr().err


def test_tasks_that_share_a_conversion_succeed_one_by_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line = "convert from-hf hf out --max-shard-size 2kB --tasks 2 --task"
    assert run(monkeypatch, f"{line} 0") == 0
    assert "files missing: other tasks make them" in (said := capfd.readouterr().err)
    assert "convert: its share is done in " in said
    assert not artifacts.is_done(here / "out")
    assert run(monkeypatch, f"{line} 1") == 0
    assert "convert: done in " in capfd.readouterr().err
    assert artifacts.is_done(here / "out")
    assert run(monkeypatch, f"{line} 0") == 0


def test_a_finished_conversion_answers_without_its_source(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "convert from-hf hf out") == 0
    shutil.copytree(here / "hf", here / "other")
    embedding = load_file(here / "hf" / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in embedding.items()}, here / "other" / "model.safetensors")
    assert run(monkeypatch, "convert from-hf other out") == 2
    assert "was finished with another input" in capfd.readouterr().err
    shutil.rmtree(here / "hf")
    assert run(monkeypatch, "convert from-hf hf out") == 0
    assert capfd.readouterr().err == "convert: done before\n"


def test_what_a_stage_refuses_is_said_once_and_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "hf" / "config.json").write_text('{"model_type": "bert"}')
    before = files(here)
    assert run(monkeypatch, "convert from-hf hf new/out --tasks 2") == 2
    assert capfd.readouterr().err == (
        "error: hf/config.json: model_type 'bert' is not supported; allowed: llama, qwen2, qwen3, mistral\n"
    )
    assert files(here) == before


def test_the_tool_for_conversions_is_the_verb_alone(here: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
    asked = subprocess.run([sys.executable, tool, "--help"], capture_output=True, text=True, timeout=60)
    assert asked.stdout.startswith("Usage: convert_checkpoint.py [OPTIONS] {direction} {SRC} {DST}\n")
    refused = subprocess.run([sys.executable, tool, "to-hf", "hf", "out"], capture_output=True, text=True, timeout=60)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith("did you mean from-hf?\n")


def test_list_prints_every_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "list") == 0
    out = capsys.readouterr().out
    assert all(
        name in out for name in ("llama32_1b.stable", "llama31_8b.decay_hybrid", "ablations.web_pro", "tiny.study")
    )


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "recipe", interrupted)
    assert run(monkeypatch, "show tiny.stable") == 130
