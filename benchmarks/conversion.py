r"""Our conversion beside what converters do and beside `cp`, on synthetic checkpoints of Llama's shapes.

    python benchmarks/conversion.py --directory /scratch/bench [--shapes 1b,3b,8b,70b-3] [--rounds 3]

Prints Markdown tables. Every row is a whole command, measured from outside; the commands of a case take turns, each on the same
files, with the source either read through just before (warm) or thrown out of the page cache (cold); all end in fsync. The output
of every command that converts is compared tensor by tensor, and ours goes there and back again. Writes up to twice the largest
shape (8b: 32 GB) below the directory and removes it. Exit code 1 where a bar is missed or an output differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import page_cache
import psutil
import synthetic_checkpoints as synthetic
from conversion_tables import (
    ALLOCATING,
    COPY,
    COPY_AND_HASH,
    OURS,
    UNHASHED,
    Case,
    RoundTrip,
    Turn,
    all_met,
    header,
    memory,
    report,
)
from own_memory import watched

from megatron_octo import artifacts
from megatron_octo.recipes import llama31_8b, llama32_1b, llama32_3b
from megatron_octo.training.config import ModelConfig

SHAPES = {
    # to see that everything runs
    "small": ModelConfig(
        num_layers=3, hidden_size=512, ffn_hidden_size=1536, num_attention_heads=8, num_query_groups=2, kv_channels=64,
        vocab_size=32_000, max_position_embeddings=8192,
    ),
    "1b": llama32_1b.MODEL,
    "3b": llama32_3b.MODEL,
    "8b": llama31_8b.MODEL,
    # three of 80 layers
    "70b-3": ModelConfig(
        num_layers=3, hidden_size=8192, ffn_hidden_size=28_672, num_attention_heads=64, num_query_groups=8,
        kv_channels=128, vocab_size=128_256, max_position_embeddings=131_072, rope_scaling_factor=8.0,
    ),
}  # fmt: skip
#: A converter that holds the model also holds most of it a second time, reshaped or serialised.
ALLOCATED_PER_MODEL_BYTE = 2.0
#: Ours comes last, so that its last output stays: it is the next source.
COMMANDS = (COPY, COPY_AND_HASH, ALLOCATING, UNHASHED, OURS)
COPY_SCRIPT = 'cp -R "$1" "$2" && find "$2" -exec sync {} +'
#: Python's sha256 is OpenSSL's: about five times as fast as coreutils' own.
HASH_SCRIPT = ' && find "$2" -type f -exec "$3" -c "$4" {} +'
HASH_FILES = "import hashlib, sys; [hashlib.file_digest(open(name, 'rb'), 'sha256') for name in sys.argv[1:]]"
ALLOCATING_SCRIPT = Path(__file__).with_name("allocating_conversion.py")
UNHASHED_SCRIPT = Path(__file__).with_name("unhashed_conversion.py")


def main() -> None:
    options = _options()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(header(options.directory, options.rounds, options.max_shard_bytes), flush=True)
    everything: list[Case] = []
    met = True
    for name in options.shapes:
        bench = Bench(name, options)
        try:
            cases, trip = bench.cases(), bench.round_trip()
        finally:
            bench.clear()
        print(f"\n## {name}\n\n{report(cases, trip)}", flush=True)
        met &= all_met(cases, trip)
        everything += cases
    print(f"\n## Memory\n\n{memory(everything)}")
    raise SystemExit(not met)


class Bench:
    """One shape: its files below a directory of its own, and what was measured on them."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._name, self._model, self._options = name, SHAPES[name], options
        self._directory: Path = options.directory / f"conversion-{name}"
        if self._directory.exists():
            raise SystemExit(f"{self._directory} exists; remove it, or name another directory")
        self._directory.mkdir(parents=True)
        artifacts.require_disk(self._directory, 2 * synthetic.num_bytes(self._model))
        self._left_out = _left_out(synthetic.num_bytes(self._model))
        self._hf, self._megatron = self._directory / "hf", self._directory / "megatron"

    def clear(self) -> None:
        shutil.rmtree(self._directory)

    def cases(self) -> list[Case]:
        """to-hf from every layout, then from-hf of what ours made; leaves both of our outputs."""
        found = []
        stage = self._directory / "stage"
        for ranks in self._options.tensor_parallel:
            checkpoint = synthetic.write(stage, self._model, tensor_parallel=ranks)
            found += self._measured("to-hf", f"TP {ranks}", stage, checkpoint, self._hf)
            shutil.rmtree(stage)
        return found + self._measured("from-hf", "", self._hf, self._hf, self._megatron)

    def round_trip(self) -> RoundTrip:
        """Our Hugging Face directory against the one made of the checkpoint that was made of it."""
        first = synthetic.hf_hashes(self._hf), _config(self._hf)
        shutil.rmtree(self._hf)
        command = self._ours("to-hf", self._megatron, self._hf)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        second = synthetic.hf_hashes(self._hf), _config(self._hf)
        (hashes, config), (hashes_after, config_after) = first, second
        return RoundTrip(tensors=len(hashes), tensors_equal=hashes == hashes_after, config_equal=config == config_after)

    def _measured(self, direction: str, layout: str, source: Path, files: Path, kept: Path) -> list[Case]:
        """All turns of one direction. `files` are the source's bytes; the last output of ours goes to `kept`."""
        hashes: dict[str, dict[str, str]] = {}
        cases = [
            Case(
                shape=self._name, direction=direction, layout=layout, cache=cache, model_bytes=synthetic.num_bytes(self._model),
                left_out=self._left_out,
            )
            for cache in self._options.caches
        ]  # fmt: skip
        commands = self._commands(direction, source, files, kept)
        for _ in range(self._options.rounds):
            for case in cases:
                for name in [name for name in COMMANDS if name not in case.left_out]:
                    shutil.rmtree(kept, ignore_errors=True)
                    case.turns.setdefault(name, []).append(self._turn(commands[name], kept, files, case.cache))
                    if name in (ALLOCATING, OURS) and name not in hashes and not case.left_out:
                        hashes[name] = self._hashes(direction, kept)
        for case in cases:
            case.equal = len({json.dumps(found, sort_keys=True) for found in hashes.values()}) == 1 if hashes else None
        return cases

    def _turn(self, command: Sequence[str], out: Path, files: Path, cache: str) -> Turn:
        os.sync()
        {"warm": page_cache.read_through, "cold": page_cache.forget}[cache](files)
        cached = page_cache.cached_share(files)
        log = self._directory / "log.txt"
        return Turn(process=watched(command, log), cached=cached, seconds=_own_seconds(out, log))

    def _commands(self, direction: str, source: Path, files: Path, out: Path) -> dict[str, list[str]]:
        # beside the files, since a checkpoint's stage is removed with them
        model = self._directory / "model.json"
        if (source / "model.json").exists():
            shutil.copyfile(source / "model.json", model)
        allocating = [
            sys.executable, str(ALLOCATING_SCRIPT), direction, str(model), str(files), str(out),
            "--max-shard-bytes", str(self._options.max_shard_bytes),
        ]  # fmt: skip
        copy, and_hash = (
            ["sh", "-c", script, "sh", str(files), str(out)] for script in (COPY_SCRIPT, COPY_SCRIPT + HASH_SCRIPT)
        )
        return {
            COPY: copy,
            COPY_AND_HASH: [*and_hash, sys.executable, HASH_FILES],
            ALLOCATING: allocating,
            UNHASHED: self._ours(direction, source, out, str(UNHASHED_SCRIPT)),
            OURS: self._ours(direction, source, out),
        }

    def _ours(self, direction: str, source: Path, out: Path, *program: str) -> list[str]:
        config = self._directory / f"{direction}.json"
        settings = {
            "direction": direction, "source": str(source), "max_shard_bytes": self._options.max_shard_bytes,
            "workers": self._options.workers,
        }  # fmt: skip
        config.write_text(json.dumps(settings))
        return [sys.executable, *(program or ("-m", "megatron_octo.conversion.run")), str(config), str(out)]

    def _hashes(self, direction: str, out: Path) -> dict[str, str]:
        if direction == "to-hf":
            return synthetic.hf_hashes(out)
        return synthetic.megatron_hashes(next(out.rglob(".metadata")).parent, self._model)


def _left_out(model_bytes: int) -> dict[str, str]:
    """Commands that this machine has no memory for, and why."""
    needed, there = ALLOCATED_PER_MODEL_BYTE * model_bytes, psutil.virtual_memory().available
    if needed <= there:
        return {}
    return {ALLOCATING: f"needs about {needed / 1e9:.0f} GB of memory, {there / 1e9:.0f} GB are free"}


def _own_seconds(out: Path, log: Path) -> dict[str, float]:
    """What a command says of itself: the seconds of our stage.json, or those that the allocating converter prints."""
    mark = artifacts.read_mark(out)
    if mark is not None:
        named = {key: float(value) for key, value in mark["counts"].items() if key.endswith("_seconds")}
        return {"wall_seconds": float(mark["wall_seconds"])} | named
    last = log.read_text().strip().splitlines()[-1:]
    return {key: float(value) for line in last if line.startswith("{") for key, value in json.loads(line).items()}


def _config(directory: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((directory / "config.json").read_text())
    return found


def _listed(kind: Callable[[str], object], allowed: Sequence[object] | None = None) -> Callable[[str], list[object]]:
    def parse(text: str) -> list[object]:
        found = [kind(part) for part in text.split(",")]
        if allowed is not None and (unknown := [part for part in found if part not in allowed]):
            raise argparse.ArgumentTypeError(f"{unknown[0]} is not one of {', '.join(map(str, allowed))}")
        return found

    return parse


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="on the disk to measure")
    parser.add_argument("--shapes", type=_listed(str, list(SHAPES)), default="1b,3b,8b,70b-3", help=", ".join(SHAPES))
    parser.add_argument("--tensor-parallel", type=_listed(int), default="1,2", help="layouts of the source")
    parser.add_argument("--caches", type=_listed(str, ["warm", "cold"]), default="warm,cold")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every command")
    parser.add_argument("--workers", type=int, default=4, help="threads of ours")
    parser.add_argument("--max-shard-bytes", type=int, default=5_000_000_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
