"""Write the table of docs/scaling.md anew: `python tools/scaling_table.py`."""

from pathlib import Path

from megatron_octo.launch.plan import scaling

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"

if __name__ == "__main__":
    PAGE.write_text(scaling.write_into(PAGE.read_text()))
