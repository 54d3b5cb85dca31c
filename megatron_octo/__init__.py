"""The OctoThinker recipe, from raw text to report."""

import sys

if sys.argv[:1] == ["-m"]:  # what Python says while it looks for the module of `python -m`: this process is a stage's
    from megatron_octo import packages

    sys.excepthook = packages.explain
