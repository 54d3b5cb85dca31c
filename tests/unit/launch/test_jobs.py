import sys
from pathlib import Path

from megatron_octo.config import load
from megatron_octo.launch.jobs import Job, dry_run, write_config
from megatron_octo.tokenization.config import TokenizerTraining

CONFIG = TokenizerTraining(inputs=(Path("a"),), vocab_size=300, max_documents_per_input=1, model_max_length=16)


def job(**changes: object) -> Job:
    settings = {"name": "a", "module": "lab.run", "config": CONFIG, "out": Path("my out"), "logs": Path("logs")}
    return Job(**(settings | changes))  # type: ignore[arg-type]


def test_a_job_is_a_command() -> None:
    assert job().command() == [sys.executable, "-m", "lab.run", "logs/config.json", "my out"]
    assert job().command(force=True)[-1] == "--force"


def test_a_dry_run_is_lines_for_a_shell() -> None:
    assert dry_run([job(), job(name="b", ranks=2, needs=("a", "z"))]) == (
        "# a\npython -m lab.run logs/config.json 'my out'\n"
        "# b  # after a, z\ntorchrun --nproc-per-node 2 -m lab.run logs/config.json 'my out'"
    )


def test_the_config_a_process_gets(tmp_path: Path) -> None:
    one = job(logs=tmp_path / "logs" / "a")
    write_config(one)
    assert load(TokenizerTraining, one.config_file) == CONFIG
