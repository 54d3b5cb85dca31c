"""The metrics file across a resume."""

from pathlib import Path

from megatron_octo.rl.journal import Journal, read


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    Journal(file, resumed_from=1).append({"step": 2, "reward": 1.0})
    assert read(file) == [{"step": 0}, {"step": 1}, {"step": 2, "reward": 1.0}]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n')
    Journal(file, resumed_from=None)
    assert read(file) == []
