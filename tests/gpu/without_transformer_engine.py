"""Runs a module or a program on a machine that has neither Transformer Engine nor Apex, as far as it can tell:

python without_transformer_engine.py MODULE ARGUMENT...
python without_transformer_engine.py --file PROGRAM.py ARGUMENT...
"""

import runpy
import sys

if __name__ == "__main__":
    for package in ("transformer_engine", "apex"):
        sys.modules[package] = None  # type: ignore[assignment]  # an import raises ImportError, as where it is not installed
    what = sys.argv.pop(1)
    if what == "--file":
        runpy.run_path(sys.argv.pop(1), run_name="__main__")
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)
