"""Megatron to Hugging Face: what is read, planned and written around the weights."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo import checksums, units
from megatron_octo.checksums import Checksum
from megatron_octo.conversion import card, dtypes, hf_config, hf_weights, layout, origin
from megatron_octo.conversion.config import Conversion
from megatron_octo.conversion.families import CONFIG_FILE
from megatron_octo.conversion.plan import Wanted, prevailing_dtype, whole
from megatron_octo.conversion.torch_dist import Checkpoint
from megatron_octo.errors import ConfigError
from megatron_octo.shards import TOKENIZER_SHA256
from megatron_octo.tokenization.identity import tokenizer_sha256


class Export:
    """Made before anything is written: everything that can be refused is refused here.

    Raises:
        ArtifactError: the source is no complete checkpoint, or not of the model it says it is.
        ConfigError: no family of Hugging Face models is like it.
    """

    #: Where files go in the stage directory, and the one without which nothing loads them.
    place = Path()
    last = CONFIG_FILE
    #: Weights of another plan, which loaders might take before ours.
    leftovers = ("model*.safetensors", "model.safetensors.index.json")

    def __init__(self, config: Conversion) -> None:
        self.config = config
        self.origin = origin.find(config.source, reference=config.reference)
        self.model = self.origin.model
        self._checkpoint = Checkpoint(self.origin.checkpoint)
        self._checkpoint.require(layout.weights(self.model), padded=self.origin.stage is None)
        self._wanted = layout.to_hf(self.model, self._checkpoint.stored, dtypes.EXPORT[config.dtype])
        self._dtype = prevailing_dtype(self._wanted)
        self._around = hf_config.surroundings(
            self.model, dtype=self._dtype, reference=self.origin.reference, tokenizer=config.tokenizer
        )
        self._require_own_tokenizer()
        self.files, self._index = hf_weights.files(self._wanted, max_shard_bytes=config.max_shard_bytes)

    @property
    def inputs(self) -> dict[str, Path]:
        """The checkpoint by the checksums it was written with, where it has some; and every file that is carried over."""
        model = {} if self.origin.stage is None else {"model": self.origin.stage / origin.MODEL_FILE}
        source = {"source": self._checksums} if self._checksums.exists() else {}
        return {**model, **source, **self._around.copies}

    @property
    def raw_inputs(self) -> dict[str, Path]:
        return {} if self._checksums.exists() else {"source": self.origin.checkpoint / ".metadata"}

    @property
    def description(self) -> str:
        size = units.bytes_(sum(wanted.num_bytes for wanted in self._wanted))
        return (
            f"{self.origin.checkpoint} to {self._around.family.name}: {units.counted(len(self._wanted), 'tensor')}, {size} "
            f"of {self._dtype.name}, in {units.counted(len(self.files), 'file')}"
        )

    @property
    def counts(self) -> dict[str, Any]:
        return {"tensors": len(self._wanted), "bytes": sum(wanted.num_bytes for wanted in self._wanted)}

    def surround(self, partial: Path) -> list[str]:
        """Write all of the directory but the weights and the model card. Returns the names."""
        for note in self._around.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        for name, file in self._around.copies.items():
            shutil.copyfile(file, partial / name)
        written = {**self._index, **self._around.files}
        for name, content in written.items():
            (partial / name).write_bytes(content)
        return [*self._around.copies, *written]

    @property
    def is_rounded(self) -> bool:
        return any(wanted.rounds for wanted in self._wanted)

    def pairs(self, written: Path) -> tuple[list[Wanted], list[Wanted]]:
        """Megatron's tensors: straight from the source, and from what was written."""
        back = layout.to_megatron(self.model, hf_weights.HfWeights(written).stored, None)
        source = [whole(self._checkpoint.stored(weight.key, weight.layer), like=wanted) for weight, wanted in back]
        return source, [wanted for _, wanted in back]

    def sides(self, written: Path) -> tuple[Path, Path]:
        """The Megatron checkpoint and the Hugging Face directory, for their logits."""
        return self.origin.checkpoint, written

    def seal(self, partial: Path, known: Mapping[str, Checksum], proof: Mapping[str, Any]) -> list[str]:
        """The model card, which also says what was proved."""
        text = card.text(
            self.origin,
            family=self._around.family,
            dtype=self._dtype,
            weights_sha256={name: checksum.sha256 for name, checksum in known.items()},
            proof=proof,
        )
        (partial / hf_config.CARD_FILE).write_text(text)
        return [hf_config.CARD_FILE]

    def announce(self, out: Path) -> None:
        """Nothing: config.json has done it."""

    def _require_own_tokenizer(self) -> None:
        """A model answers nonsense through another tokenizer than it was trained with, whatever its size."""
        trained = origin.lineage(self.origin.stage).get(TOKENIZER_SHA256) if self.origin.stage is not None else None
        vocabulary = self._around.copies.get("tokenizer.json")
        if trained is not None and vocabulary is not None and tokenizer_sha256(vocabulary.parent) != trained:
            raise ConfigError(
                f"{vocabulary} is not the tokenizer of the corpora that {self.origin.stage} was trained on; "
                "name theirs with --tokenizer"
            )

    @property
    def _checksums(self) -> Path:
        return self.origin.checkpoint / checksums.FILE
