"""The corpora of a run, opened and put in order. Everything that can be wrong with them is said here, before a model is built."""

from megatron_octo import shards
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.shards import Corpus
from megatron_octo.training import lineage
from megatron_octo.training.blend import Blend
from megatron_octo.training.config import MidTraining, TrainingJob
from megatron_octo.training.data import SampleOrder, TokenStream, require_caps


def open_corpora(job: TrainingJob) -> dict[str, Corpus]:
    """The corpora of both blends by name. Raises `CorpusError` when they, or the model training starts from, differ in tokenizer."""
    corpora = {name: shards.open_corpus(job.shards / name) for name in job.recipe.corpora}
    for name, corpus in corpora.items():
        if corpus.manifest.vocab_size > job.recipe.model.vocab_size:
            raise CorpusError(
                f"the shards in {job.shards / name} use a vocabulary of {corpus.manifest.vocab_size}, the model has "
                f"{job.recipe.model.vocab_size} entries; tokenise with the model's tokenizer"
            )
    _require_one_tokenizer(job, {name: corpus.manifest.tokenizer_sha256 for name, corpus in corpora.items()})
    return corpora


def _require_one_tokenizer(job: TrainingJob, found: dict[str, str]) -> None:
    """Token ids mean what the tokenizer says: other ids train without any error, on noise."""
    first = next(iter(found))
    expected, whose = found[first], f"the corpus '{first}'"
    if job.init_checkpoint is not None and (parents := lineage.tokenizer(job.init_checkpoint)) is not None:
        expected, whose = parents, f"the model in {job.init_checkpoint}"
    for name, sha256 in found.items():
        if sha256 != expected:
            raise CorpusError(
                f"the corpus '{name}' in {job.shards / name} was tokenised with another tokenizer ({sha256[:12]}) than {whose} "
                f"({expected[:12]}); tokenise it with that one"
            )


def sample_orders(recipe: MidTraining, corpora: dict[str, Corpus]) -> tuple[SampleOrder, SampleOrder | None]:
    """The order of the training samples and of the validation samples. Raises `ConfigError` where a corpus would repeat too often."""
    training = _order(recipe, recipe.blend, corpora, phase=recipe.name)
    require_caps(training, recipe.blend, recipe.train_iters * recipe.global_batch_size)
    if recipe.validation is None:
        return training, None
    validation = _order(recipe, recipe.validation.blend, corpora, phase="validation")
    for name, epochs in validation.epochs(recipe.validation_steps * recipe.global_batch_size).items():
        if epochs > 1:
            raise ConfigError(
                f"validation.tokens {recipe.validation.tokens:,} would read '{name}' {epochs:.2f} times each time, once is enough; "
                f"set it to at most {int(recipe.validation.tokens / epochs):,}"
            )
    return training, validation


def _order(recipe: MidTraining, blend: Blend, corpora: dict[str, Corpus], *, phase: str) -> SampleOrder:
    streams = [
        TokenStream(name=share.corpus, shards=corpora[share.corpus].shards, seq_length=recipe.seq_length)
        for share in blend.shares
    ]
    return SampleOrder(
        blend=blend, streams=streams, seed=recipe.seed, phase=phase, document_starts=recipe.reset_attention_mask
    )
