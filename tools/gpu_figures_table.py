"""Write the predicted tables of docs/measurements.md anew: `python tools/gpu_figures_table.py`."""

from pathlib import Path

from megatron_octo.launch.plan import gpu_figures

PAGE = Path(__file__).parents[1] / "docs" / "measurements.md"

if __name__ == "__main__":
    PAGE.write_text(gpu_figures.write_into(PAGE.read_text()))
