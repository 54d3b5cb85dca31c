"""Arguments and options that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="a name from 'list', or your own as my_lab.runs:ablation_7")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH=VALUE]...", help="changes to the recipe's fields")
]
Out = Annotated[Path, typer.Option(help="stage directory to make or to continue")]
DataDirectory = Annotated[
    Path | None,
    typer.Option(
        help="directory with <benchmark>.jsonl or .parquet, and .train.jsonl for examples; default: the Hugging Face hub"
    ),
]
On = Annotated[
    str, typer.Option(help="place to run at: local, or a file of yours that names a cluster (docs/cluster.md)")
]
StudyDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="directory of a study, or of one stage")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
Nodes = Annotated[int | None, typer.Option(min=1, help="nodes of training on a cluster; default: one")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run and start nothing")]
Force = Annotated[bool, typer.Option("--force", help="redo what was made with another config or other inputs")]
