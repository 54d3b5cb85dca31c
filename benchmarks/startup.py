r"""How long data takes to get ready: our computed order against the index of Megatron's GPTDataset, on the same shards.

    python benchmarks/startup.py --work /scratch/bench

Writes the tokens as sparse files and real indices (40 MB for each 2B tokens, 4 GB at full size), and removes all of it. A row is
one process that opens the shards, orders a run over 95 % of the tokens and reads the windows of its first step, measured after
imports; the indices are in the page cache for all rows. GPTDataset needs about 6 GB of memory at full size. Small, to see that
it runs: `--tokens 1e8 --shards 10`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron_octo import artifacts, units
from megatron_octo.config import to_dict
from megatron_octo.errors import ConfigError
from megatron_octo.shards import (
    MANIFEST,
    Manifest,
    Shard,
    bin_path,
    idx_path,
    index_parts,
    open_corpus,
    token_dtype,
)
from megatron_octo.training.blend import Blend, Share
from megatron_octo.training.data import SampleOrder, TokenStream, require_caps

#: Shares of the blend, and of the shards: so GPTDataset builds a single epoch of each, which is its best case.
SHARES = {"web": 0.4, "math": 0.3, "code": 0.2, "qa": 0.1}
TRAINED_SHARE = 0.95
VOCAB_SIZE = 128_256
SEQ_LENGTH = 8192
DOCUMENT_TOKENS = 1000
SEED = 1234
#: The bar of our row.
MOST_SECONDS, MOST_MIB = 2.0, 200.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is opened: shards of the same size in one directory per corpus."""

    directory: Path
    tokens: int
    shards: int
    batch: int

    @property
    def shard_tokens(self) -> int:
        return self.tokens // self.shards

    @property
    def samples(self) -> int:
        return int(TRAINED_SHARE * self.shard_tokens * self.shards) // SEQ_LENGTH

    def prefixes(self, corpus: str) -> list[Path]:
        return [self.directory / corpus / f"{corpus}-{number:03d}" for number in range(self._num_shards(corpus))]

    def _num_shards(self, corpus: str) -> int:
        return round(SHARES[corpus] * self.shards)


def main() -> int:
    arguments = _arguments()
    bench = Bench(
        directory=arguments.work / "startup",
        tokens=int(arguments.tokens),
        shards=arguments.shards,
        batch=arguments.batch,
    )
    if arguments.row:
        print(json.dumps(measure(ROWS[arguments.row], bench)))
        return 0
    try:
        documents = write_corpora(bench)
        found = {name: run_row(name, arguments) for name in ROWS}
    finally:
        shutil.rmtree(bench.directory, ignore_errors=True)
    print(table(bench, documents, found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scratch directory")
    parser.add_argument("--tokens", type=float, default=200e9)
    parser.add_argument("--shards", type=int, default=100, help="a multiple of 10")
    parser.add_argument("--batch", type=int, default=512, help="windows of the first step")
    parser.add_argument(
        "--row", choices=[*ROWS], help="measure one row on what is there, print JSON (used by this script)"
    )
    arguments = parser.parse_args()
    if arguments.shards < 10 or arguments.shards % 10:
        parser.error(f"--shards {arguments.shards}: a multiple of 10, so that the blend's shares are whole shards")
    return arguments


def write_corpora(bench: Bench) -> int:
    """Corpora of `bench`, and how many documents they have."""
    # The same lengths in every shard: nobody looks at more than one shard at a time.
    lengths = document_lengths(bench.shard_tokens)
    for corpus in SHARES:
        (bench.directory / corpus).mkdir(parents=True)
        for prefix in bench.prefixes(corpus):
            with bin_path(prefix).open("wb") as stream:
                stream.truncate(bench.shard_tokens * token_dtype(VOCAB_SIZE).itemsize)
            with idx_path(prefix).open("wb") as stream:
                stream.writelines(index_parts(lengths, token_dtype(VOCAB_SIZE)))
        manifest = _manifest(corpus, bench, documents=len(lengths))
        artifacts.write_json(bench.directory / corpus / MANIFEST, to_dict(manifest))
    return len(lengths) * bench.shards


def document_lengths(tokens: int) -> np.ndarray:
    """Between 500 and 1,500 tokens, of `tokens` in all."""
    count = tokens // DOCUMENT_TOKENS
    lengths = np.random.default_rng(SEED).integers(500, 1501, size=count, dtype=np.int32)
    each, rest = divmod(tokens - int(lengths.sum()), count)
    lengths += each
    lengths[:rest] += 1
    return lengths


def _manifest(corpus: str, bench: Bench, *, documents: int) -> Manifest:
    size = bench.shard_tokens
    shards = tuple(
        Shard(name=prefix.name, documents=documents, tokens=size, bytes=4 * size, bin_sha256="", idx_sha256="")
        for prefix in bench.prefixes(corpus)
    )
    return Manifest(
        corpus=corpus, tokenizer_sha256="", vocab_size=VOCAB_SIZE, engine="none", engine_version="0", bos_id=None, eos_id=None,
        prepend_bos=False, append_eod=False, shuffle_seed=None, documents=documents * len(shards), empty_documents=0,
        skipped_lines=0, checked_documents=0, mismatched_documents=0, tokens=size * len(shards), text_bytes=0, shards=shards,
    )  # fmt: skip


#: Gets ready, and gives what reads the first step.
Start = Callable[[], Callable[[], object]]


def ours(bench: Bench) -> Start:
    """Caps checked and documents looked up, which GPTDataset does not do."""

    def start() -> Callable[[], object]:
        blend = Blend(shares=tuple(Share(corpus=name, weight=weight, max_epochs=1) for name, weight in SHARES.items()))
        streams = [
            TokenStream(name=name, shards=open_corpus(bench.directory / name).shards, seq_length=SEQ_LENGTH)
            for name in SHARES
        ]
        order = SampleOrder(blend=blend, streams=streams, seed=SEED, phase="stable", document_starts=True)
        require_caps(order, blend, bench.samples)
        return lambda: order.read(np.arange(bench.batch))

    return start


def theirs(*, cold: bool = False, fast: bool = False) -> Callable[[Bench], Start]:
    """GPTDataset: `cold` without a cache, `fast` with its options that skip checks of the cache and of the files.

    It reads tokens from files, not from mappings, its default: a page fault may read megabytes around it (here it took 30 ms).
    """

    def row(bench: Bench) -> Start:
        import torch
        from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

        cache = bench.directory / "cache"
        if cold:
            shutil.rmtree(cache, ignore_errors=True)
        # BlendedDataset asks for a rank before it writes its cache.
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        prefixes = [prefix for name in SHARES for prefix in bench.prefixes(name)]
        weights = [weight / len(bench.prefixes(name)) for name, weight in SHARES.items() for _ in bench.prefixes(name)]
        documents = bench.shard_tokens // DOCUMENT_TOKENS

        def start() -> Callable[[], object]:
            config = GPTDatasetConfig(
                random_seed=SEED, sequence_length=SEQ_LENGTH, path_to_cache=str(cache), tokenizer=Tokenizer(),
                blend_per_split=[([str(prefix) for prefix in prefixes], weights), None, None],
                reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
                mid_level_dataset_surplus=0.005, fast_cache_load=fast, mmap_bin_files=False,
                sequences_per_dataset={str(prefix): (documents, documents + 1) for prefix in prefixes} if fast else None,
            )  # fmt: skip
            dataset = BlendedMegatronDatasetBuilder(GPTDataset, [bench.samples, 0, 0], lambda: True, config).build()[0]
            return lambda: [dataset[sample] for sample in range(bench.batch)]

        return start

    return row


@dataclass
class Tokenizer:
    """What GPTDataset asks of one."""

    vocab_size: int = VOCAB_SIZE
    eod: int = 0
    pad: int = -1
    unique_identifiers: dict[str, str] = field(default_factory=dict)


ROWS: dict[str, Callable[[Bench], Start]] = {
    "ours": ours,
    "GPTDataset, no cache": theirs(cold=True),
    "GPTDataset, cached": theirs(),
    "GPTDataset, cached, fast_cache_load": theirs(fast=True),
}


def measure(row: Callable[[Bench], Start], bench: Bench) -> dict[str, float]:
    """Seconds, and how far the process' memory rose above what its imports took."""
    start = row(bench)
    # The peak so far is forgotten: imports may have had more in memory for a moment.
    Path("/proc/self/clear_refs").write_text("5")
    before, started = _resident("VmRSS"), time.perf_counter()
    first_step = start()
    ready = time.perf_counter()
    first_step()
    seconds = {"ready": ready - started, "first_step": time.perf_counter() - ready}
    return {**seconds, "mib": (_resident("VmHWM") - before) / units.MIB}


def _resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * units.KIB for line in lines if line.startswith(f"{name}:"))


def run_row(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """A process of its own. Raises `subprocess.CalledProcessError` when it fails."""
    settings = {key: str(getattr(arguments, key)) for key in ("work", "tokens", "shards", "batch")}
    options = [word for key, value in settings.items() for word in (f"--{key}", value)]
    command = [sys.executable, __file__, "--row", name, *options]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(said.strip().splitlines()[-1]))


def table(bench: Bench, documents: int, found: dict[str, dict[str, float]]) -> str:
    mine = found["ours"]
    seconds = {name: row["ready"] + row["first_step"] for name, row in found.items()}
    lines = [
        f"# Start-up: {units.count(bench.tokens)} tokens in {bench.shards} shards, {units.count(documents)} documents\n",
        f"A run of {bench.samples:,} windows of {SEQ_LENGTH}; the first step reads {bench.batch}, from files that no row before has "
        "touched there but for the cached rows, which read what the row above them read. Memory is the peak beyond imports, with "
        "the pages of mapped files.\n",
        "| | ready s | first step s | together s | times ours | MiB | times ours |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in found.items():
        times, size = seconds[name] / seconds["ours"], row["mib"] / mine["mib"]
        lines.append(
            f"| {name} | {row['ready']:.2f} | {row['first_step']:.2f} | {seconds[name]:.2f} | {times:.1f}x | {row['mib']:.0f} | "
            f"{size:.1f}x |"
        )
    met = seconds["ours"] < MOST_SECONDS and mine["mib"] < MOST_MIB
    lines.append(f"\nBar for ours: {MOST_SECONDS:g} s and {MOST_MIB:g} MiB: {'met' if met else '**not met**'}.")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (ConfigError, subprocess.CalledProcessError) as error:
        raise SystemExit(str(error)) from error
