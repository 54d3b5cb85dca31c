"""Hugging Face to Megatron: what is read, planned and written around the weights.

OUT/model.json                  the decoder, in Megatron's words
OUT/hf/                         config.json, tokenizer, licence: what an export of a trained model needs besides
OUT/checkpoints/iter_0000000/   weights without optimizer state, which training starts from at any layout
OUT/checkpoints/latest
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, checksums, units
from megatron_octo.checksums import Checksum
from megatron_octo.config import to_dict
from megatron_octo.conversion import dtypes, hf_config, layout, origin, torch_dist
from megatron_octo.conversion.config import Conversion
from megatron_octo.conversion.hf_weights import HfWeights
from megatron_octo.conversion.plan import Wanted, prevailing_dtype, whole
from megatron_octo.shards import TOKENIZER_SHA256
from megatron_octo.tokenization.identity import tokenizer_sha256

TOKENIZER_FILE = "tokenizer.json"


class Import:
    """Made before anything is written: everything that can be refused is refused here.

    Raises:
        ArtifactError: the source is no complete model, or not the one its config.json describes.
        ConfigError: Megatron cannot train it as it stands.
    """

    #: Where files go in the stage directory, and the one without which nothing loads them.
    place = Path("checkpoints/iter_0000000")
    last = "metadata.json"
    #: Files of another plan.
    leftovers = ("checkpoints/iter_0000000/*",)

    def __init__(self, config: Conversion) -> None:
        self.config = config
        self.model = hf_config.read_config(config.source)
        self._source = HfWeights(config.source)
        self._source.require(layout.hf_shapes(self.model), copies=layout.copies(self.model))
        self._kept = hf_config.keep(config.source)
        #: So that training refuses corpora of another tokenizer.
        self._tokenizer = _tokenizer(config.source)
        self._wanted = layout.to_megatron(self.model, self._source.stored, dtypes.EXPORT[config.dtype])
        self.files, self._small = torch_dist.files(
            self._wanted, num_layers=self.model.num_layers, max_file_bytes=config.max_shard_bytes
        )

    @property
    def inputs(self) -> dict[str, Path]:
        """A model that one of our stages made is known by its hashes; else the small files are."""
        if artifacts.is_done(self.config.source):
            return {"source": self.config.source}
        return dict(self._kept)

    @property
    def raw_inputs(self) -> dict[str, Path]:
        if artifacts.is_done(self.config.source):
            return {}
        files = {box.file for _, wanted in self._wanted for run in wanted.runs for box in run.source.boxes}
        return {file.name: file for file in sorted(files)}

    @property
    def description(self) -> str:
        tensors = [wanted for _, wanted in self._wanted]
        return (
            f"{self.config.source} to Megatron torch_dist: {units.counted(len(self._keys), 'tensor')}, "
            f"{units.bytes_(self._bytes)} of {prevailing_dtype(tensors).name}, in {units.counted(len(self.files), 'file')}"
        )

    @property
    def counts(self) -> dict[str, Any]:
        return {"tensors": len(self._keys), "bytes": self._bytes, **self._tokenizer}

    def surround(self, partial: Path) -> list[str]:
        """Write what makes a checkpoint of the weights. Returns the names."""
        for name, content in self._small.items():
            (partial / name).write_bytes(content)
        return list(self._small)

    @property
    def is_rounded(self) -> bool:
        return any(wanted.rounds for _, wanted in self._wanted)

    def pairs(self, written: Path) -> tuple[list[Wanted], list[Wanted]]:
        """Hugging Face's tensors: straight from the source, and from what was written."""
        back = layout.to_hf(self.model, torch_dist.Checkpoint(written).stored, None)
        return [whole(self._source.stored(wanted.name), like=wanted) for wanted in back], back

    def sides(self, written: Path) -> tuple[Path, Path]:
        """The Megatron checkpoint and the Hugging Face directory, for their logits."""
        return written, self.config.source

    def seal(self, partial: Path, known: Mapping[str, Checksum], proof: Mapping[str, Any]) -> list[str]:
        """Checksums, which training compares before it starts."""
        del proof
        checksums.save(partial, {**known, **{name: checksums.of_file(partial / name) for name in self._small}})
        return [checksums.FILE]

    def announce(self, out: Path) -> None:
        """Describe the model, then name the checkpoint as the newest."""
        kept = out / origin.KEPT
        kept.mkdir(exist_ok=True)
        for name, file in self._kept.items():
            shutil.copyfile(file, kept / name)
            artifacts.sync_file(kept / name)
        artifacts.write_json(out / origin.MODEL_FILE, to_dict(self.model))
        latest = out / self.place.parent / "latest"
        latest.write_text(self.place.name + "\n")
        artifacts.sync_file(latest)

    @property
    def _bytes(self) -> int:
        return sum(wanted.num_bytes for _, wanted in self._wanted)

    @property
    def _keys(self) -> set[str]:
        return {weight.key for weight, _ in self._wanted}


def _tokenizer(source: Path) -> dict[str, str]:
    """Its identity; nothing for a directory without one."""
    return {TOKENIZER_SHA256: tokenizer_sha256(source)} if (source / TOKENIZER_FILE).exists() else {}
