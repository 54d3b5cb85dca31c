"""The servers that a stage starts: up when they are handed over, gone afterwards, however the stage ends."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from megatron_octo import server_client
from megatron_octo.curation.config import LanguageModel
from megatron_octo.curation.language_model import model_server
from megatron_octo.errors import ConfigError, ResourceError
from megatron_octo.servers import Server

#: In the place of vLLM's server: takes its time, lists its model, and has a process of its own.
VLLM = """
import argparse, json, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
for word in ("--host", "--port", "--model", "--served-model-name", "--tensor-parallel-size", "--pid-file"):
    parser.add_argument(word)
asked = parser.parse_args()
if asked.model == "broken":
    sys.exit("the weights do not fit")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"object": "list", "data": [{"id": asked.served_model_name, "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(0.5)
server = HTTPServer((asked.host, int(asked.port)), Handler)
Path(asked.pid_file).write_text(f"{engine.pid} {asked.tensor_parallel_size}")
server.serve_forever()
"""
HOLDER = """
import sys, time
from megatron_octo.curation.language_model import model_server
from megatron_octo.curation.config import LanguageModel
with model_server.running(LanguageModel()) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""


def is_up(server: Server) -> bool:
    try:
        server_client.require_model(server)
    except ResourceError:
        return False
    return True


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of this name; returns the file in which its server says who it is."""
    file = tmp_path / "packages" / "vllm" / "entrypoints" / "openai" / "api_server.py"
    file.parent.mkdir(parents=True)
    file.write_text(VLLM)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    return tmp_path / "pid"


def test_the_stand_in(capfd: pytest.CaptureFixture[str]) -> None:
    with model_server.running(LanguageModel()) as server:
        assert server.model == "stand-in"
        assert is_up(server)
    assert not is_up(server)
    assert "NO LANGUAGE MODEL IS ASKED" in capfd.readouterr().err


def test_a_users_server_is_looked_at_and_left_running() -> None:
    with model_server.running(LanguageModel()) as server:
        with model_server.running(LanguageModel(server=server)) as same:
            assert same == server
        assert is_up(server)
        other = Server(url=server.url, model="llama")
        with pytest.raises(ConfigError, match="no model 'llama'"), model_server.running(LanguageModel(server=other)):
            pass


def test_vllm_is_started_and_ended_with_all_it_started(vllm: Path) -> None:
    asked = LanguageModel(vllm="/models/llama 3", gpus=2, vllm_options=f"--pid-file '{vllm}'")
    with model_server.running(asked) as server:
        assert server.model == "/models/llama 3"
        assert is_up(server)
        engine, ranks = map(int, vllm.read_text().split())
        assert psutil.pid_exists(engine)
        assert ranks == 2
    assert not is_up(server)
    assert not psutil.pid_exists(engine) or psutil.Process(engine).status() == psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("vllm")
def test_vllm_that_does_not_start_says_why() -> None:
    with (
        pytest.raises(ConfigError, match=r"exit code 1 .*\nthe weights do not fit"),
        model_server.running(LanguageModel(vllm="broken")),
    ):
        pass


def test_vllm_that_is_not_there() -> None:
    with pytest.raises(ResourceError, match="pip install vllm"), model_server.running(LanguageModel(vllm="m")):
        pass


def test_a_server_goes_with_a_killed_stage() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        server = Server(url=holder.stdout.readline().strip(), model="stand-in")
        assert is_up(server)
        holder.kill()
    deadline = time.monotonic() + 10
    while is_up(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)
