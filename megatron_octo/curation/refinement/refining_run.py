"""Rewriting documents as a process: `python -m megatron_octo.curation.refinement.refining_run REFINEMENT.json OUT`.

What fails lies in OUT/rejects/refined, with its reason and the last answers of the model in `metadata`. All answers are in
OUT/logs/answers, so that a run that was killed, or stopped by its budget, continues with what it has paid for. The model takes all the
time: guards and chunks cost some 3 ms per document of 12,000 characters.
"""

import dataclasses
from pathlib import Path

from megatron_octo import artifacts, process, units
from megatron_octo.curation import documents, parts
from megatron_octo.curation.config import Refinement
from megatron_octo.curation.language_model import costs, model_server, prompts
from megatron_octo.curation.refinement.refining import Refine
from megatron_octo.servers import Server

#: Below the stage's logs.
ANSWERS = "answers"


def run(config: Refinement, out: Path, force: bool) -> None:
    """Say what it will take, then ask."""
    documents.require_parts(config.documents, config.parts)
    prompt = prompts.load(config.prompt_file, prompts.REFINE)
    with parts.opened(
        out, kind="refined", config=config, inputs=_inputs(config), force=force, keep=Path("logs", ANSWERS)
    ) as stage:
        if stage.done:
            return
        _say_costs(config, stage.logs / ANSWERS)
        with model_server.running(config.model) as server:
            step = Refine(
                config, _shared(server, config.workers), prompt=prompt, answers=stage.logs / ANSWERS, stage=out
            )
            parts.make(stage, config, [documents.Read(config.documents), step, documents.Write(out)])


def _inputs(config: Refinement) -> dict[str, Path]:
    named = {"documents": config.documents, "prompt": config.prompt_file}
    return {name: path for name, path in named.items() if path is not None}


def _say_costs(config: Refinement, folder: Path) -> None:
    counts = artifacts.finished(config.documents)["counts"]
    estimate = costs.refinement(config, documents=counts["kept_documents"], characters=counts["kept_characters"])
    # By their size: to count their tokens is to read them all, and there may be terabytes.
    answered = sum(file.stat().st_size for file in folder.glob("*.jsonl"))
    already = f"; {units.bytes_(answered)} of answers are there already" if answered else ""
    parts.say(f"refine: {costs.spell(estimate, config.model)}{already}")


def _shared(server: Server, workers: int) -> Server:
    """What one worker makes of the server: all of them together keep as many requests under way as it should have."""
    return dataclasses.replace(server, concurrency=max(1, server.concurrency // workers))


if __name__ == "__main__":
    raise SystemExit(process.main(run, Refinement))
