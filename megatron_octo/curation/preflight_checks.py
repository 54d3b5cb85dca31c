"""The checks of preflight.py. Each says what it saw; an error says what is wrong, and `Doubt` what is worth knowing."""

import importlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from megatron_octo import artifacts, units
from megatron_octo.curation.config import LanguageModel, Reading
from megatron_octo.curation.raw import inputs
from megatron_octo.errors import ConfigError, CorpusError, OctoError, ResourceError
from megatron_octo.evaluation import loading
from megatron_octo.evaluation.config import Source
from megatron_octo.servers import Server
from megatron_octo.tokenization import sources

#: For a server to list its models; a busy one answers late (guess).
SERVER_SECONDS = 30.0
#: Rows at the beginning of a file among which one must have the fields to read: a few may be without.
FIRST_ROWS = 100
#: Files of a path among which one must have such rows: a list of the others may lie before them.
FIRST_FILES = 10
#: All steps together, in bytes of the inputs (2026-11-23, `curate tiny web.documents=300`: 2.8 without the annotated sample, the
#: classifier and logs).
WRITTEN_SHARE = 3.0
#: Below this not even a tenth of web archives is kept as text (guess).
LEAST_SHARE = 0.05
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Doubt(Exception):  # noqa: N818 - no error: it works, and is worth knowing
    """What a check saw that stops nothing."""


def packages(modules: Collection[str]) -> str:
    for module in modules:
        importlib.import_module(module)
    return f"those of {units.counted(len(modules), 'step')}"


# Inputs ---------------------------------------------------------------------------------------------------------------


def raw_inputs(reading: Reading, out: Path) -> str:
    files = inputs.resolve(reading.inputs)
    sources.require_outside(reading.inputs, out)
    unfit = [error for path in reading.inputs for error in _unfit_before_rows(path, reading)]
    if unfit:
        raise Doubt(f"{unfit[0]}; such rows are kept aside")
    return f"{units.counted(len(files), 'file')}, {units.bytes_(_bytes(files))}"


def input_bytes(reading: Reading) -> int:
    """Bytes of all inputs; 0 where they cannot be read, which is another check's finding."""
    try:
        return _bytes(inputs.resolve(reading.inputs))
    except (OctoError, OSError):
        return 0


def _bytes(files: Collection[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _unfit_before_rows(path: Path, reading: Reading) -> list[CorpusError]:
    """What is wrong with the files of a path before the first that can be read. Raises the first `CorpusError` where none can."""
    unfit: list[CorpusError] = []
    for file in [file for file in inputs.resolve([path]) if not inputs.is_archive(file)][:FIRST_FILES]:
        try:
            _require_fields(file, reading)
        except CorpusError as error:
            unfit.append(error)
        else:
            return unfit
    if unfit:
        raise unfit[0]
    return []


def _require_fields(file: Path, reading: Reading) -> None:
    """Raises `CorpusError` where no row of the first has the fields to read: all would be kept aside."""
    from megatron_octo.curation.raw.rows import lookup

    seen, reason = _first_rows(file)
    if not seen:
        if reason:
            raise CorpusError(f"{file} begins with what is no row: {reason}")
        return
    for field in filter(None, (reading.text_field, reading.id_field)):
        if all(lookup(row, field) is None for row in seen):
            raise CorpusError(
                f"none of the first {units.counted(len(seen), 'row')} of {file} has '{field}' (present: {', '.join(seen[0])})"
            )


def _first_rows(file: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows, and why something among them is none. Raises `Doubt` for a file that is damaged there: the step keeps it aside."""
    from megatron_octo.curation.raw.rows import BadRow, rows
    from megatron_octo.curation.raw.streams import DamagedError

    seen, reason = list[dict[str, Any]](), ""
    try:
        for _, row in islice(rows(file), FIRST_ROWS):
            if isinstance(row, BadRow):
                reason = reason or row.reason
            else:
                seen.append(row)
    except DamagedError as error:
        raise Doubt(f"{file} is damaged: {error}") from error
    return seen, reason


def language_model(model: Path | None) -> str:
    from megatron_octo.curation import languages

    languages.Identifier(model)
    return str(model or languages.small_model().name)


def disk(out: Path, size: int) -> str:
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        raise ConfigError(f"{place} cannot be written")
    free = artifacts.free_bytes(out)
    if not size:
        return f"{units.bytes_(free)} free for {out}"
    text = (
        f"{units.bytes_(free)} free for {out}; all steps may take {units.bytes_(round(WRITTEN_SHARE * size))}, {WRITTEN_SHARE:g} times "
        "the inputs"
    )
    if free < LEAST_SHARE * size:
        raise CorpusError(text)
    if free < WRITTEN_SHARE * size:
        raise Doubt(text)
    return text


# Who is asked, and for what -------------------------------------------------------------------------------------------


def prompt(file: Path) -> str:
    from megatron_octo.curation.language_model import prompts

    prompts.load(file, "")
    return str(file)


def model(asked: LanguageModel, *, elsewhere: bool) -> str:
    if asked.vllm is not None:
        if importlib.util.find_spec("vllm") is None:
            raise ResourceError(f"vllm={asked.vllm} needs vLLM in this environment: pip install vllm")
        return f"vLLM, to be started with {asked.vllm}"
    if asked.server is None:
        return "none: a stand-in answers by rule, for trials"
    is_loopback = elsewhere and urlsplit(asked.server.url).hostname in LOOPBACK
    try:
        _require_model(asked.server)
    except ResourceError as error:
        if is_loopback:
            raise ConfigError(f"{error}; in a job this address is the node's own") from error
        raise
    except ConfigError as error:
        if elsewhere and _is_about_the_key(error):
            raise Doubt(f"{error}; a job has what its place's environment_file sets") from error
        raise
    if is_loopback:
        raise Doubt(f"{asked.server.url} answers here; in a job this address is the node's own")
    return f"{asked.server.url} has {asked.server.model}"


def _is_about_the_key(error: ConfigError) -> bool:
    import openai

    return isinstance(error.__cause__, openai.AuthenticationError | openai.PermissionDeniedError)


def _require_model(server: Server) -> None:
    """Raises what `server_client.require_model` raises, and `ResourceError` where no answer comes."""
    from megatron_octo import server_client

    outcome: list[OctoError | None] = []

    def ask() -> None:
        try:
            server_client.require_model(server)
            outcome.append(None)
        except OctoError as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SERVER_SECONDS)
    if not outcome:
        raise ResourceError(
            f"the server at {server.url} takes the connection and says nothing for {SERVER_SECONDS:.0f} s"
        )
    if outcome[0] is not None:
        raise outcome[0]


def benchmarks(asked: Collection[Source]) -> str:
    """Their questions are read as the step will read them. Raises the first error, with the names of all that cannot be read."""
    if not asked:
        raise Doubt("none are given: documents that hold their questions stay")
    found, errors = 0, dict[str, OctoError]()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        for source in asked:
            try:
                found += len(loading.questions(source))
            except OctoError as error:
                errors[source.name] = error
    if errors:
        # Machines elsewhere may reach the hub, or have its files; a file is the same there.
        of_hub = all(source.file is None for source in asked if source.name in errors)
        text = f"{', '.join(errors)} cannot be read; the first: {next(iter(errors.values()))}"
        raise ResourceError(text) if of_hub else CorpusError(text)
    names = tuple(source.name for source in asked)
    doubts = [text for text in map(_message, said) if text.startswith(names)]
    if doubts:
        raise Doubt("; ".join(doubts))
    return f"{units.counted(found, 'question')} of {units.counted(len(asked), 'benchmark')}"


def _message(warning: warnings.WarningMessage) -> str:
    return str(warning.message)
