"""Files of Hugging Face weights: what we plan, the safetensors package reads; what is damaged or does not belong, we name."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from megatron_octo.conversion import families, hf_weights
from megatron_octo.conversion.copying import Sources
from megatron_octo.conversion.dtypes import BF16, FP16, FP32, Dtype
from megatron_octo.conversion.hf_weights import HfWeights
from megatron_octo.conversion.plan import OutputFile, Run, Stored, Wanted
from megatron_octo.errors import ArtifactError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, 2.0]), "c": torch.full((3,), 7.0)}
SHAPES = {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def whole(stored: Stored, dtype: Dtype = FP32) -> Wanted:
    return Wanted(stored.name, stored.shape, dtype, (Run(stored, 0, 0, stored.rows),))


def numbers(stored: Stored) -> list[float]:
    with Sources() as sources:
        found = sources.gather(whole(stored), 0, stored.rows)
    return list(map(float, found.view(np.float32).ravel()))


def wanted(directory: Path, dtypes: Sequence[Dtype] = (FP32, FP32, FP32)) -> list[Wanted]:
    """`TENSORS`, stored in fp32."""
    directory.mkdir()
    save_file(TENSORS, directory / "model.safetensors")
    weights = HfWeights(directory)
    return [whole(weights.stored(name), dtype) for name, dtype in zip(TENSORS, dtypes, strict=True)]


def make(files: Sequence[OutputFile], small: dict[str, bytes], directory: Path) -> Path:
    """Carry a plan out in the simplest way."""
    directory.mkdir()
    with Sources() as sources:
        for file in files:
            content = bytearray(file.size)
            parts = dict(file.literals) | {
                offset: sources.gather(tensor, 0, tensor.rows).tobytes() for offset, tensor in file.tensors
            }
            for offset, part in parts.items():
                content[offset : offset + len(part)] = part
            (directory / file.name).write_bytes(content)
    for name, text in small.items():
        (directory / name).write_bytes(text)
    return directory


def test_one_file_of_several_number_formats(tmp_path: Path) -> None:
    tensors = wanted(tmp_path / "source", (BF16, FP32, FP16))
    out = make(*hf_weights.files(tensors, max_shard_bytes=1000), tmp_path / "out")
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]
    found = load_file(out / "model.safetensors")
    assert [found[name].dtype for name in "abc"] == [torch.bfloat16, torch.float32, torch.float16]
    assert all(torch.equal(found[name].float(), TENSORS[name]) for name in TENSORS)
    assert int.from_bytes((out / "model.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_several_files_with_an_index(tmp_path: Path) -> None:
    tensors = wanted(tmp_path / "source")
    # a alone is 24 bytes, b and c are 8 and 12
    out = make(*hf_weights.files(tensors, max_shard_bytes=20), tmp_path / "out")
    assert (out / "model.safetensors.index.json").read_text() == (
        '{\n  "metadata": {\n    "total_parameters": 11,\n    "total_size": 44\n  },\n  "weight_map": {\n'
        f'    "a": "{FIRST}",\n    "b": "{SECOND}",\n    "c": "{SECOND}"\n  }}\n}}\n'
    )
    assert load_file(out / SECOND).keys() == {"b", "c"}
    weights = HfWeights(out)
    weights.require(SHAPES, copies={})
    assert {name: numbers(weights.stored(name)) for name in SHAPES} == {
        "a": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "b": [1.0, 2.0], "c": [7.0, 7.0, 7.0]
    }  # fmt: skip
    assert weights.stored("a").shape == (2, 3)


def test_links_are_followed(tmp_path: Path) -> None:
    """A snapshot in the cache of huggingface_hub is links to blobs."""
    save_file(TENSORS, tmp_path / "blob")
    (tmp_path / "model.safetensors").symlink_to("blob")
    assert numbers(HfWeights(tmp_path).stored("b")) == [1.0, 2.0]


# pytorch_model*.bin ---------------------------------------------------------------------------------------------------


def test_torch_files_are_read(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4).bfloat16()
    # rows of a wider tensor, a shared storage, and an offset into it
    torch.save({"rows": base[1:, :2], "all": base}, tmp_path / "pytorch_model.bin")
    weights = HfWeights(tmp_path)
    weights.require({"rows": (2, 2), "all": (3, 4)}, copies={})
    assert weights.stored("rows").dtype == BF16
    assert numbers(weights.stored("rows")) == [4.0, 5.0, 8.0, 9.0]
    assert numbers(weights.stored("all")) == [float(number) for number in range(12)]


def test_torch_files_with_an_index(tmp_path: Path) -> None:
    torch.save({"a": TENSORS["a"]}, tmp_path / "one.bin")
    torch.save({"b": TENSORS["b"], "c": TENSORS["c"]}, tmp_path / "two.bin")
    index = {"weight_map": {"a": "one.bin", "b": "two.bin", "c": "two.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    weights = HfWeights(tmp_path)
    weights.require(SHAPES, copies={})
    assert numbers(weights.stored("c")) == [7.0, 7.0, 7.0]


def test_safetensors_win(tmp_path: Path) -> None:
    torch.save({"x": TENSORS["a"]}, tmp_path / "pytorch_model.bin")
    save_file({"x": TENSORS["b"]}, tmp_path / "model.safetensors")
    assert HfWeights(tmp_path).stored("x").shape == (2,)


def test_old_torch_files_are_refused(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(
        ArtifactError, match=r"pytorch_model\.bin is not in the format that torch writes since 1\.6; write"
    ):
        HfWeights(tmp_path)


@pytest.mark.parametrize("view", [TENSORS["a"].T, torch.ones(1, 3).expand(2, 3)], ids=["transposed", "expanded"])
def test_rows_that_are_none_are_refused(tmp_path: Path, view: torch.Tensor) -> None:
    torch.save({"t": view}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="t is stored transposed"):
        HfWeights(tmp_path).stored("t")


def test_other_things_in_a_torch_file_are_refused(tmp_path: Path) -> None:
    torch.save({"model": TENSORS}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ArtifactError, match=r"cannot read .*pytorch_model\.bin: it holds other things than tensors by name"
    ):
        HfWeights(tmp_path)


# What should be there -------------------------------------------------------------------------------------------------


def test_missing_and_unexpected_tensors_are_listed(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"missing: d; unexpected: b, c$"):
        HfWeights(tmp_path).require({"a": (2, 3), "d": (1,)}, copies={})
    with pytest.raises(ArtifactError, match=r"not the model its config.json describes: b is \[2\], not \[5\]$"):
        HfWeights(tmp_path).require(SHAPES | {"b": (5,)}, copies={})


def test_long_lists_are_cut(tmp_path: Path) -> None:
    save_file({f"t{number:04d}": torch.zeros(1) for number in range(1023)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"missing: a; unexpected: t0000, .*, t0019 and 1,003 more$"):
        HfWeights(tmp_path).require({"a": (1,)}, copies={})


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["language_model.model.a"], "its names begin with 'language_model.': save the language model"),
        (["model.a", "layers.0.q_proj.lora_A.weight"], r"merge the adapter \(lora\) into the model first"),
    ],
)
def test_wrapped_models_are_told_what_to_do(tmp_path: Path, names: list[str], hint: str) -> None:
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=hint):
        HfWeights(tmp_path).require({"model.a": (1,)}, copies={})


def test_computed_tensors_are_passed_over(tmp_path: Path) -> None:
    frequencies = "model.layers.3.self_attn.rotary_emb.inv_freq"
    save_file(TENSORS | {frequencies: torch.ones(4, dtype=torch.float64)}, tmp_path / "model.safetensors")
    HfWeights(tmp_path).require(SHAPES, copies={})


@pytest.mark.parametrize(("dtype", "spelled"), [(torch.int32, "I32"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_quantised_models_are_refused(tmp_path: Path, dtype: torch.dtype, spelled: str) -> None:
    save_file(TENSORS | {"a": torch.zeros(2, 3).to(dtype)}, tmp_path / "model.safetensors")
    message = rf"not weights in F32, F16, BF16: a \({spelled}\); quantised models are not converted"
    with pytest.raises(ArtifactError, match=message):
        HfWeights(tmp_path).require(SHAPES, copies={})


def test_a_tied_tensor_may_be_written_twice(tmp_path: Path) -> None:
    copies = {"lm_head": "a"}
    save_file(TENSORS | {"lm_head": TENSORS["a"].clone()}, tmp_path / "model.safetensors")
    HfWeights(tmp_path).require(SHAPES, copies=copies)
    save_file(TENSORS | {"lm_head": TENSORS["a"].bfloat16()}, tmp_path / "model.safetensors")
    HfWeights(tmp_path).require(SHAPES, copies=copies)
    save_file(TENSORS | {"lm_head": TENSORS["a"] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"ties lm_head to a, and the two differ; .* tie_word_embeddings false"):
        HfWeights(tmp_path).require(SHAPES, copies=copies)
    save_file(TENSORS | {"lm_head": TENSORS["a"][:1].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"lm_head is \[1, 3\], not \[2, 3\]"):
        HfWeights(tmp_path).require(SHAPES, copies=copies)


# Damage ---------------------------------------------------------------------------------------------------------------


def test_files_that_an_index_names_must_be_there(tmp_path: Path) -> None:
    save_file({"a": TENSORS["a"]}, tmp_path / FIRST)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": FIRST, "b": SECOND}}))
    with pytest.raises(ArtifactError, match=rf"lacks files that its {index.name} names: {SECOND}; fetch them again"):
        HfWeights(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": FIRST, "b": FIRST}}))
    with pytest.raises(ArtifactError, match=rf"names tensors that are not there: b \(in {FIRST}\)"):
        HfWeights(tmp_path)
    index.write_text("[]")
    with pytest.raises(ArtifactError, match=f"cannot read {index}: it is no index of weights"):
        HfWeights(tmp_path)


def test_tensors_that_no_index_names_are_unexpected(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / FIRST)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": FIRST, "b": FIRST}}))
    with pytest.raises(ArtifactError, match="missing: none; unexpected: c"):
        HfWeights(tmp_path).require({"a": (2, 3), "b": (2,)}, copies={})


def test_directories_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no weights: neither model\.safetensors nor pytorch_model\.bin"):
        HfWeights(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["adapter_model.safetensors"],
            r"holds an adapter, not a model \(adapter_model.safetensors\); merge it .*merge_and_unload",
        ),
        (
            ["consolidated.00.pth", "consolidated.01.pth", "params.json"],
            r"Meta's original files \(consolidated.00.pth, consolidated.01.pth, params.json\); name the same model in Hugging Face's",
        ),
        (["model-q4.gguf"], r"a model for llama.cpp \(model-q4.gguf\); .* name the Hugging Face directory"),
    ],
)
def test_models_of_other_tools_are_refused_with_the_way_on(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match=message):
        HfWeights(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        families.load(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert HfWeights(tmp_path).stored("a").shape == (2, 3)


def test_an_adapter_is_known_by_its_config(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="holds an adapter, not a model"):
        families.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_pointers_of_git_lfs_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(ArtifactError, match=f"{name} is a pointer of Git LFS, .* `git lfs pull`"):
        HfWeights(tmp_path)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (4, "it does not begin as a safetensors file does"),
        (60, r"it is cut off at 60 bytes, inside its header of \d+;"),
        (-1, r"it is cut off: \d+ bytes, and its header tells of \d+;"),
    ],
)
def test_cut_off_files_are_named(tmp_path: Path, keep: int, message: str) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=f"cannot read {file}: {message}"):
        HfWeights(tmp_path)


def entry(first: int, end: int, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


def damaged_headers() -> Iterator[tuple[bytes, str]]:
    yield b"no header", "its header is no JSON"
    yield b"[]", "its header is no JSON object"
    for header, message in (
        ({"a": entry(0, 8), "b": entry(4, 16, shape=(3,))}, "b begins at byte .*, the tensor before it ends at"),
        ({"a": entry(0, 4, shape=(1,)), "b": entry(8, 16)}, "b begins at byte"),
        ({"a": entry(0, 16)}, r"a has 16 bytes, F32 \[2\] needs 8"),
        ({"a": entry(0, 8)}, "there is more in it"),
        ({"a": entry(0, 32, shape=(8,))}, "it is cut off"),
        ({"a": entry(-8, 16)}, "its header is malformed"),
        ({"a": entry(16, 0)}, "its header is malformed"),
        ({"a": entry(0, 16, shape="4")}, "its header is malformed"),
        ({"a": {"dtype": "F32", "shape": [4]}}, "its header is malformed"),
        ({"a": 4}, "its header is malformed"),
    ):
        yield json.dumps(header).encode(), message


@pytest.mark.parametrize(("header", "message"), list(damaged_headers()))
def test_damaged_headers_are_named(tmp_path: Path, header: bytes, message: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ArtifactError, match=f"cannot read {re.escape(str(file))}: {message}"):
        HfWeights(tmp_path)
    # and not by us alone
    with pytest.raises(SafetensorError):
        load_file(file)


def test_absurd_headers_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write((1 << 40).to_bytes(8, "little"))
        stream.truncate(1 << 41)
    with pytest.raises(ArtifactError, match="does not begin as a safetensors file does"):
        HfWeights(tmp_path)
