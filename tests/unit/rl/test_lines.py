"""JSON lines written anew, and read as they come."""

from pathlib import Path

from megatron_octo.jsonl import replace
from megatron_octo.rl.lines import Growing


def test_a_file_written_anew_has_the_new_rows_alone(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    (tmp_path / ".rows.jsonl.tmp").write_text("of a try that was killed\n")
    for rows in ([{"step": 1}, {"step": 2}], [{"step": 3}]):
        replace(file, rows)
    assert file.read_text() == '{"step": 3}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_row_is_given_once_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    growing = Growing(file)
    found = []
    for text in ('{"step": 1}\n{"st', "", 'ep": "Ø"}\n', '{"step": 3}\n'):
        with file.open("a") as stream:
            stream.write(text)
        found.append(list(growing.new_rows()))
    assert found == [[{"step": 1}], [], [{"step": "Ø"}], [{"step": 3}]]
