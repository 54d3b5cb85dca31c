"""The real vLLM on a CPU, offline and as a server, against our transformers engine: the same greedy texts in fp32."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_octo import process
from megatron_octo.errors import ArtifactError, ConfigError
from megatron_octo.evaluation.completions import Completer, Completion, Sampling

sys.path.append(str(Path(__file__).parents[1] / "integration"))
import tiny_llama

PROMPTS = [f"Question: {number}\nAnswer:" for number in range(12)] + ["Question", "Q"]
GREEDY = Sampling(max_new_tokens=10, temperature=0.0, top_p=1.0, stop_strings=("estion", "one"), seed=3)
SERVER_SECONDS = 240


@pytest.fixture(scope="module", autouse=True)
def cpu() -> Iterator[None]:
    """What vLLM's CPU build needs; the stand-ins for OpenRLHF are left out, this vLLM is as installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.ENVIRONMENT.items():
            if name not in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR"):
                patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers with a word or two and EOS; its tokenizer puts BOS in front."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = tiny_llama.byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny_llama.BOS} $A", special_tokens=[(tiny_llama.BOS, 1)]
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(  # heads of 32: vLLM's CPU attention refuses the 16 of tiny_llama
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=1,
        )
    )  # fmt: skip
    endings = (" two", " one", " three four", "\nQuestion: 8")
    texts = [f"Question: {number}\nAnswer:{endings[number % 4]}" for number in range(12)]
    ids = [[*tokenizer(text)["input_ids"], 0] for text in texts]
    batch = torch.tensor([row + [0] * (48 - len(row)) for row in ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(250):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[int, Completion]:
    from megatron_octo.evaluation.transformers_engine import TransformersCompleter

    found = completed(TransformersCompleter(model, batch_size=4))
    # Each way to end is there: EOS, the stop strings, the cap.
    assert {" two", " ", "u", " three fou"} <= {completion.text for completion in found.values()}
    assert {completion.finished for completion in found.values()} == {True, False}
    return found


def completed(completer: Completer, sampling: Sampling = GREEDY, done: tuple[int, ...] = ()) -> dict[int, Completion]:
    return {place: found for batch in completer.complete(PROMPTS, sampling, done=done) for place, found in batch}


def test_vllm_offline(model: Path, expected: dict[int, Completion], monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron_octo.evaluation import vllm_engine

    monkeypatch.setattr(vllm_engine, "CHUNK_PROMPTS", 5)
    completer = vllm_engine.VLLMCompleter(model)
    chunks = [len(batch) for batch in completer.complete(PROMPTS, GREEDY, done=())]
    assert chunks == [5, 5, 4]
    assert completed(completer) == expected
    assert completed(completer, done=(0, 1, 13)) == {at: expected[at] for at in expected if at not in (0, 1, 13)}
    warm = Sampling(max_new_tokens=16, temperature=2.0, top_p=0.9, stop_strings=(), seed=1)
    first = completed(completer, warm)
    # A prompt's sample is its own, whatever else is asked for.
    assert completed(completer, warm, done=(0, 2, 4, 6)) == {at: first[at] for at in first if at not in (0, 2, 4, 6)}


def test_a_directory_without_a_model_is_one_message(tmp_path: Path) -> None:
    from megatron_octo.evaluation import vllm_engine

    with pytest.raises(ArtifactError, match="is no Hugging Face model"):
        vllm_engine.VLLMCompleter(tmp_path)


def test_a_vllm_server(model: Path, expected: dict[int, Completion]) -> None:
    from megatron_octo.evaluation.server_engine import ServerCompleter
    from megatron_octo.servers import Server

    with served(model) as url:
        assert completed(ServerCompleter(Server(url=url, model="tiny", concurrency=5))) == expected
        with pytest.raises(ConfigError, match="has no model 'large'; it has tiny"):
            ServerCompleter(Server(url=url, model="large"))
        too_long = Sampling(max_new_tokens=4096, temperature=0.0, top_p=1.0, stop_strings=(), seed=0)
        with pytest.raises(ConfigError, match="refuses a request"):
            completed(ServerCompleter(Server(url=url, model="tiny")), too_long)


@contextlib.contextmanager
def served(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        # What `vllm serve` runs, which looks for a package named vllm; the CPU build's name is another.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--generation-config", "vllm", "--enforce-eager",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    server = subprocess.Popen(words, start_new_session=True)
    try:
        _wait(url, server)
        yield url
    finally:
        process.end(server, grace_seconds=20)


def _wait(url: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            assert json.load(urllib.request.urlopen(f"{url}/models", timeout=5))["data"]
            return
        assert server.poll() is None, "the server ended"
        time.sleep(1)
    raise TimeoutError(f"the server did not answer in {SERVER_SECONDS} s")
