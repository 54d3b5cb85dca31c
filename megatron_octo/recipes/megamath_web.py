"""MegaMath-Web to a MegaMath-Web-Pro-Max of your own. `--input` names your copy of MegaMath-Web.

    megatron-octo curate megamath_web.pro_max annotation.model.server.url=http://node1:8000/v1 \\
        refinement.model.server.url=http://node1:8000/v1 --input /data/MegaMath/megamath-web --out runs/pro_max

What the paper says is marked with its place in the recipe (section 3); the authors published neither seeds, prompts nor classifier.
"""

from pathlib import Path

from megatron_octo.curation.config import (
    Annotation,
    Curation,
    LanguageModel,
    Publication,
    Reading,
    Refinement,
    Unique,
)
from megatron_octo.evaluation.benchmarks import BENCHMARKS
from megatron_octo.evaluation.config import Source
from megatron_octo.servers import Server

#: [P-App] Annotation and refinement. Its outputs bring the Llama licence's naming clause.
MODEL = "meta-llama/Llama-3.1-70B-Instruct"
#: Of vLLM on one node of eight H100 (guess).
CONCURRENCY = 256


def pro_max() -> Curation:
    """MegaMath-Web to a MegaMath-Web-Pro-Max of your own, refinement included."""
    model = LanguageModel(server=Server(url="http://localhost:8000/v1", model=MODEL, concurrency=CONCURRENCY))
    return Curation(
        reading=Reading(inputs=(Path("megamath-web"),), parts=1_024),
        annotation=Annotation(
            sample=2_000_000, model=model
        ),  # [N32] "millions"; MegaMath's own classifier had 2M seeds
        unique=Unique(benchmarks=tuple(Source(name=name) for name in BENCHMARKS)),
        refinement=Refinement(model=model),
        publication=Publication(name="megamath_web_pro_max"),
    )


def pro_max_unrefined() -> Curation:
    """The same without refinement, the costly part (docs/curation.md)."""
    refined = pro_max()
    return Curation(
        reading=refined.reading,
        annotation=refined.annotation,
        unique=refined.unique,
        refinement=None,
        publication=Publication(name="megamath_web_relevant"),
    )
