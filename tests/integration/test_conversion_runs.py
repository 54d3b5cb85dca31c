"""Conversions as processes: killed and continued, shared, refused; without torch; and with a disk that changes a bit."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import other_savers
import pytest
import tiny_families
import torch
from safetensors.torch import load_file, save_file
from tiny_conversions import change_model, from_hf, to_hf, weights
from transformers import AutoModelForCausalLM

from megatron_octo import artifacts
from megatron_octo.config import to_dict
from megatron_octo.conversion import copying, origin, run
from megatron_octo.conversion.config import Conversion, Direction, ExportDtype
from megatron_octo.errors import ArtifactError, ResourceError

CONVERSION = ("-m", "megatron_octo.conversion.run")
KILLED = (str(Path(__file__).with_name("killed_conversion.py")),)
#: Of a model of 0.5 MB, so that it lies in several files.
SHARDS = {"max_shard_bytes": 100_000}
BACK = {Direction.FROM_HF: Direction.TO_HF, Direction.TO_HF: Direction.FROM_HF}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights `hf` and `megatron`, each in several files."""
    root = tmp_path_factory.mktemp("runs")
    tiny_families.make(root / "single", "llama-untied")
    to_hf(from_hf(root / "single", root / "first", **SHARDS), root / "hf", **SHARDS)
    from_hf(root / "hf", root / "megatron", **SHARDS)
    return root


def conversion(models: Path, direction: Direction, **fields: Any) -> Conversion:
    source = models / ("hf" if direction is Direction.FROM_HF else "megatron")
    return Conversion(**({"direction": direction, "source": source} | SHARDS | fields))


def start(config: Conversion, out: Path, *words: str, program: tuple[str, ...] = CONVERSION) -> subprocess.Popen[str]:
    file = out.with_name(f"{out.name}.{config.task}.json")
    artifacts.write_json(file, to_dict(config))
    return subprocess.Popen(
        [sys.executable, *program, str(file), str(out), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], *, code: int = 0) -> str:
    """What a process wrote on stderr, once it has ended with an exit code."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    return errors


def contents(directory: Path) -> dict[str, bytes]:
    """All files by their relative names, but what tells when and where they were made."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "stage.json")
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def entries(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".finishing"}  # what tasks wait for until all is done


@pytest.mark.parametrize("direction", Direction)
def test_a_killed_conversion_continues(models: Path, tmp_path: Path, direction: Direction) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    config = conversion(models, direction, workers=3)
    said(start(config, whole))
    last = sorted(path.name for path in whole.rglob("*") if path.suffix in (".distcp", ".safetensors"))[-1]
    said(start(config, out, last, "2", program=KILLED), code=-9)
    assert entries(out) == {"stage.json", run.PARTIAL}
    partial = out / run.PARTIAL
    finished = {mark.name.removesuffix(".done") for mark in partial.glob("*.done")}
    assert len(finished) >= 2
    assert last in entries(partial) - finished
    (partial / f".{last}.done.1234.tmp").write_text("{")  # killed in the middle of writing a mark
    made = {name: (partial / name).stat().st_mtime_ns for name in finished}
    said(start(config, out))
    assert contents(out) == contents(whole)
    assert {path.name: path.stat().st_mtime_ns for path in out.rglob("*") if path.name in finished} == made


def test_a_source_that_was_changed_meanwhile_is_copied_anew(models: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(models / "hf", source)
    config = conversion(models, Direction.FROM_HF, source=source, workers=3)
    (source / "stage.json").unlink()  # as if another program had made it
    said(start(config, out, "__5_0.distcp", "4", program=KILLED), code=-9)
    file = source / "model-00001-of-00007.safetensors"
    save_file({name: -tensor for name, tensor in load_file(file).items()}, file)
    said(start(config, out))
    assert contents(out) == contents(convert(config, tmp_path / "whole"))


@pytest.mark.parametrize("moved", [1, 9])
@pytest.mark.parametrize("direction", Direction)
def test_a_conversion_killed_at_its_end_is_no_model(
    models: Path, tmp_path: Path, direction: Direction, moved: int
) -> None:
    out = tmp_path / "out"
    config = conversion(models, direction)
    said(start(config, out, "publish", str(moved), program=KILLED), code=-9)
    there = {path.name for path in out.rglob("*") if run.PARTIAL not in path.parts}
    assert any(name.endswith((".distcp", ".safetensors")) for name in there)
    assert there & {"config.json", "latest", "metadata.json"} == set()
    weights = {
        path.name: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".distcp", ".safetensors")
    }
    (next(path for path in out.rglob("*") if path.name in weights).parent / "notes.txt").write_text("mine")
    if direction is Direction.TO_HF:
        (out / "model-00001-of-00099.safetensors").write_bytes(b"of another plan")
    said(start(config, out))
    made = contents(out)
    made.pop("notes.txt", None)
    made.pop("checkpoints/iter_0000000/notes.txt", None)
    assert made == contents(convert(config, tmp_path / "whole"))
    # Nothing was copied again.
    assert {path.name: path.stat().st_mtime_ns for path in out.rglob("*") if path.name in weights} == weights


def test_tasks_without_a_file_leave_nothing(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    single = {"max_shard_bytes": 1_000_000}
    for share in [start(conversion(models, Direction.TO_HF, tasks=3, task=task, **single), out) for task in range(3)]:
        said(share)
    assert entries(out) == {"README.md", "config.json", "generation_config.json", "model.safetensors", "stage.json"}


@pytest.mark.parametrize("direction", Direction)
def test_tasks_share_a_conversion(models: Path, tmp_path: Path, direction: Direction) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    alone = start(conversion(models, direction), whole)
    shares = [start(conversion(models, direction, tasks=3, task=task), out) for task in (2, 0, 1)]
    said(alone)
    logs = [said(share) for share in shares]
    assert contents(out) == contents(whole)
    assert entries(out) == entries(whole)
    assert artifacts.finished(out)["outputs"] == artifacts.finished(whole)["outputs"]
    # It is put together once: with this note, since no tokenizer is in the source.
    assert sum("note: no tokenizer" in log for log in logs) == (direction is Direction.TO_HF)


def test_a_task_that_is_missing_is_told(models: Path, tmp_path: Path) -> None:
    def share(task: int) -> str:
        return said(start(conversion(models, Direction.TO_HF, tasks=3, task=task), tmp_path / "out"))

    assert "files missing: other tasks make them" in share(0)
    assert "files missing: other tasks make them" in share(2)
    assert entries(tmp_path / "out") == {"stage.json", run.PARTIAL}
    assert not artifacts.is_done(tmp_path / "out")
    assert "missing" not in share(1)
    assert artifacts.is_done(tmp_path / "out")
    assert contents(tmp_path / "out").keys() == contents(models / "hf").keys()


@pytest.mark.parametrize("direction", Direction)
def test_neither_torch_nor_transformers_nor_megatron_is_imported(
    models: Path, tmp_path: Path, direction: Direction
) -> None:
    traced = ("-X", "importtime", *CONVERSION)
    errors = said(start(conversion(models, direction, check=True), tmp_path / "out", program=traced))
    imported = {line.rpartition("|")[2].strip() for line in errors.splitlines() if line.startswith("import time:")}
    assert "megatron_octo.conversion.check" in imported
    assert {name.partition(".")[0] for name in imported} & {"torch", "transformers", "megatron", "safetensors"} == set()


def test_a_finished_conversion_is_left_alone(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said(start(conversion(models, Direction.TO_HF), out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    said(start(conversion(models, Direction.TO_HF), out))
    other = start(conversion(models, Direction.TO_HF, dtype=ExportDtype.BF16), out)
    assert "was finished with another config:\n  dtype: 'auto' -> 'bf16'\nname another directory" in said(other, code=2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    said(start(conversion(models, Direction.TO_HF, dtype=ExportDtype.BF16), out, "--force"))
    assert {weight.dtype for weight in weights(out).values()} == {torch.bfloat16}


@pytest.mark.parametrize("words", [(), ("--force",)])
def test_a_directory_of_something_else_is_left_alone(models: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    errors = said(start(conversion(models, Direction.TO_HF), out, *words), code=2)
    assert "is not empty and no stage of ours made it" in errors
    assert contents(out) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("words", [(), ("--force",)])
@pytest.mark.parametrize("named", ["source", "reference"])
def test_what_is_read_is_never_cleared(models: Path, tmp_path: Path, named: str, words: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    shutil.copytree(models / "megatron", out)
    before = contents(out)
    place = {"source": out / "checkpoints" / "iter_0000000"}.get(named, out / "hf")
    said(start(conversion(models, Direction.TO_HF, **{named: place}), out, *words), code=2)
    assert contents(out) == before


class Code:
    """Makes a directory when it is unpickled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.directory),)


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def change_shard(source: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a file of weights, and have the index name what is in it."""
    file = source / "model-00001-of-00007.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    index = source / "model.safetensors.index.json"
    named = json.loads(index.read_text())["weight_map"]
    kept = {tensor: name for tensor, name in named.items() if name != file.name} | dict.fromkeys(tensors, file.name)
    index.write_text(json.dumps({"metadata": {}, "weight_map": kept}))


def torch_save_code(source: Path) -> None:
    for file in source.glob("model*"):
        file.unlink()
    torch.save({"model.norm.weight": Code(source / "ran")}, source / "pytorch_model.bin")


HF_DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (
        lambda source: cut_off(source / "model-00003-of-00007.safetensors"),
        "model-00003-of-00007.safetensors",
    ),
    "a file is gone": (
        lambda source: (source / "model-00003-of-00007.safetensors").unlink(),
        "lacks files that its model.safetensors.index.json names: model-00003-of-00007.safetensors",
    ),
    "a tensor is missing": (
        lambda source: change_shard(source, lambda tensors: tensors.pop("model.embed_tokens.weight")),
        "missing: model.embed_tokens.weight; unexpected: none",
    ),
    "a tensor is unexpected": (
        lambda source: change_shard(source, lambda tensors: tensors.update(extra=torch.ones(2))),
        "missing: none; unexpected: extra",
    ),
    "code": (torch_save_code, "pytorch_model.bin"),
}


def checkpoint_of(stage: Path) -> Path:
    return origin.find(stage).checkpoint


MEGATRON_DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (lambda source: cut_off(checkpoint_of(source) / "__2_0.distcp"), "__2_0.distcp ends at"),
    "a file is gone": (
        lambda source: (checkpoint_of(source) / "__2_0.distcp").unlink(),
        "__2_0.distcp: No such file or directory",
    ),
    "a tensor is missing": (
        lambda source: other_savers.forget(checkpoint_of(source), lambda key: key == "decoder.final_layernorm.weight"),
        "missing: decoder.final_layernorm.weight; unexpected: none",
    ),
    "a tensor is unexpected": (
        lambda source: change_model(source, share_embeddings_and_output_weights=True),
        "missing: none; unexpected: output_layer.weight",
    ),
    "code": (
        lambda source: (checkpoint_of(source) / ".metadata").write_bytes(pickle.dumps(Code(source / "ran"))),
        ".metadata cannot be read",
    ),
}
DAMAGES = [
    *((Direction.FROM_HF, what) for what in HF_DAMAGES),
    *((Direction.TO_HF, what) for what in MEGATRON_DAMAGES),
]


@pytest.mark.parametrize(("direction", "what"), DAMAGES)
def test_a_damaged_source_is_refused(models: Path, tmp_path: Path, direction: Direction, what: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(conversion(models, direction).source, source)
    damage, message = (HF_DAMAGES if direction is Direction.FROM_HF else MEGATRON_DAMAGES)[what]
    damage(source)
    before = contents(source)
    errors = said(start(conversion(models, direction, source=source), tmp_path / "out"), code=2)
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert entries(tmp_path) == {"source", "out.0.json"}
    assert contents(source) == before


def test_arguments_of_megatron_lm_run_no_code(models: Path, tmp_path: Path) -> None:
    source = origin.find(models / "megatron")
    saved = other_savers.megatron_lm(source.checkpoint, tmp_path / "saved", source.model, timers=Code(tmp_path / "ran"))
    said(start(conversion(models, Direction.TO_HF, source=saved), tmp_path / "out"))
    assert not (tmp_path / "ran").exists()
    assert torch.equal(weights(tmp_path / "out")["lm_head.weight"], weights(models / "hf")["lm_head.weight"])


@pytest.mark.parametrize("direction", Direction)
def test_a_full_disk_is_said_first(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: Direction
) -> None:
    monkeypatch.setattr(artifacts, "free_bytes", lambda directory: 400_000)
    config = conversion(models, direction)
    with pytest.raises(ResourceError, match=r"needs .* of disk, 400 kB are free there"):
        convert(config, tmp_path / "out")
    assert entries(tmp_path) == set()


def convert(config: Conversion, out: Path) -> Path:
    return (from_hf if config.direction is Direction.FROM_HF else to_hf)(
        config.source, out, check=config.check, max_shard_bytes=config.max_shard_bytes
    )


@pytest.mark.parametrize(
    ("direction", "file", "tensor"),
    [
        (Direction.TO_HF, "model-00001-of-00007.safetensors", "embedding.word_embeddings.weight"),
        (Direction.FROM_HF, "__0_0.distcp", "model.embed_tokens.weight"),
    ],
)
def test_a_flipped_bit_is_found(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: Direction, file: str, tensor: str
) -> None:
    make = copying.make

    def make_and_flip(files: Any, directory: Path, **options: Any) -> None:
        make(files, directory, **options)
        with (directory / file).open("r+b") as stream:
            # the first tensor's numbers begin behind headers of less than 2 kB, and are 16 kB
            stream.seek(5_000)
            byte = stream.read(1)[0]
            stream.seek(5_000)
            stream.write(bytes([byte ^ 16]))

    config, out = conversion(models, direction, check=True), tmp_path / "out"
    with monkeypatch.context() as faulty:
        faulty.setattr(copying, "make", make_and_flip)
        with pytest.raises(ArtifactError, match=rf"^1 of \d+ tensors were not written as they are in .*: {tensor};"):
            convert(config, out)
    assert not out.exists() or entries(out) <= {"stage.json", ".partial", ".finishing"}
    assert contents(convert(config, out)) == contents(convert(config, tmp_path / "whole"))


@pytest.mark.parametrize("in_files", [1, 3])
@pytest.mark.parametrize("name", ["llama-tied", "llama-untied"])
def test_torch_files_are_the_same_model(tmp_path: Path, name: str, in_files: int) -> None:
    model = tiny_families.make(tmp_path / "model", name)
    (tmp_path / "torch").mkdir()
    shutil.copy(model / "config.json", tmp_path / "torch")
    shutil.copy(model / "generation_config.json", tmp_path / "torch")
    # Tied embeddings are in it twice, and share their bytes.
    state = AutoModelForCausalLM.from_pretrained(model).state_dict()
    assert ("lm_head.weight" in state) is True
    save_torch(state, tmp_path / "torch", in_files)
    one, two = (from_hf(tmp_path / source, tmp_path / f"from-{source}", check=True) for source in ("model", "torch"))
    assert contents(one) == contents(two)


def save_torch(state: dict[str, torch.Tensor], directory: Path, in_files: int) -> None:
    """As `save_pretrained` did before safetensors."""
    if in_files == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return
    files = [f"pytorch_model-{number:05d}-of-{in_files:05d}.bin" for number in range(1, in_files + 1)]
    weight_map = {name: files[number % in_files] for number, name in enumerate(state)}
    for file in files:
        torch.save({name: tensor for name, tensor in state.items() if weight_map[name] == file}, directory / file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_a_second_process_is_kept_out(models: Path, tmp_path: Path) -> None:
    """Neither may it clear what the first one makes, nor say that what the first one finished is not."""
    config, out = conversion(models, Direction.TO_HF, workers=3), tmp_path / "out"
    last = sorted(path.name for path in convert(config, tmp_path / "whole").rglob("*.safetensors"))[-1]
    said(start(config, out, last, "2", program=KILLED), code=-9)
    finished = entries(out / run.PARTIAL)
    with artifacts.alone(out / run.PARTIAL / run.LOCK, shared=False):
        errors = said(start(config, out), code=2)
    assert f"another process is at work in {out / run.PARTIAL}" in errors
    assert entries(out / run.PARTIAL) == finished
    said(start(config, out))
    assert contents(out) == contents(tmp_path / "whole")


def test_proof_can_be_asked_for_later(models: Path, tmp_path: Path) -> None:
    out = convert(conversion(models, Direction.TO_HF), tmp_path / "out")
    before = contents(out)
    assert "checked_tensors" not in artifacts.finished(out)["counts"]
    assert "all equal" in said(start(conversion(models, Direction.TO_HF, check=True), out))
    assert artifacts.finished(out)["counts"]["checked_tensors"] > 10
    assert contents(out) == before
    # It is known by now.
    assert "all equal" not in said(start(conversion(models, Direction.TO_HF, check=True), out))


def test_a_late_proof_that_fails_says_so(models: Path, tmp_path: Path) -> None:
    out = convert(conversion(models, Direction.TO_HF), tmp_path / "out")
    file = next(iter(sorted(out.glob("*.safetensors"))))
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    errors = said(start(conversion(models, Direction.TO_HF, check=True), out), code=2)
    assert "tensors were not written as they are in" in errors
    assert "checked_tensors" not in artifacts.finished(out)["counts"]


def test_logits_of_rounded_weights_are_refused_before_anything_is_copied(models: Path, tmp_path: Path) -> None:
    config = conversion(models, Direction.TO_HF, dtype=ExportDtype.BF16, check_logits=True)
    assert "--dtype bf16 rounds them" in said(start(config, tmp_path / "out"), code=2)
    assert not (tmp_path / "out").exists()
