"""tools/lock_report.py, on a report as pip 26 writes it."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "lock_report.py"
ZEROS, ONES = "0" * 64, "1" * 64


def entry(name: str, version: str, **where: object) -> dict[str, object]:
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": f"https://host/{name}.whl", **where},
    }


def test_lines_with_hashes(tmp_path: Path) -> None:
    archive = {"archive_info": {"hashes": {"sha256": ZEROS}}}
    other = {"archive_info": {"hashes": {"sha256": ONES}}}
    entries = [
        entry("tqdm", "4.70.1", **archive),
        entry("Jinja2", "3.1.6", **other),
        entry("nvidia-nccl-cu13", "2.29.7", **archive),
        entry("megatron-octo", "0.1", dir_info={}),
    ]
    for number, report in enumerate((entries, entries[:1])):
        (tmp_path / f"{number}.json").write_text(json.dumps({"install": report}))
    command = [sys.executable, TOOL, *sorted(tmp_path.glob("*.json")), "--without", "nvidia-.*"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"Jinja2==3.1.6 --hash=sha256:{ONES}", f"tqdm==4.70.1 --hash=sha256:{ZEROS}"]
