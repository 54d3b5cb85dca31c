"""Which corpora a phase reads, and how many of its tokens come from each."""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

from megatron_octo.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Share:
    """A corpus and its share of the phase's tokens."""

    corpus: str
    weight: float
    #: A run that would go through the corpus more often is refused before it starts; None allows any number of times.
    max_epochs: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ConfigError(f"the share of '{self.corpus}' is {self.weight:g}; shares lie above 0 and up to 1")
        if self.max_epochs is not None and self.max_epochs <= 0:
            raise ConfigError(
                f"max_epochs of '{self.corpus}' is {self.max_epochs:g}; it lies above 0, or none for no cap"
            )


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Corpora and their token shares; the shares sum to 1."""

    shares: tuple[Share, ...]

    def __post_init__(self) -> None:
        names = [share.corpus for share in self.shares]
        if len(set(names)) != len(names):
            raise ConfigError(f"a corpus appears twice in the blend: {', '.join(names)}; add its shares up")
        # Shares are decimals people wrote: exact arithmetic, no tolerance to argue about.
        total = sum(Fraction(str(share.weight)) for share in self.shares)
        if total != 1:
            written = " + ".join(f"{share.corpus} {share.weight:g}" for share in self.shares)
            raise ConfigError(f"the shares of a blend must sum to 1, these sum to {float(total):g}: {written}")

    def capped(self, **max_epochs: float) -> "Blend":
        """The same blend with a cap on how often corpora repeat: `blend(web=0.9, qa=0.1).capped(qa=4)`."""
        names = [share.corpus for share in self.shares]
        for name in max_epochs:
            if name not in names:
                raise ConfigError(f"the blend has no corpus '{name}'{nearest(name, names)}")
        shares = (
            dataclasses.replace(share, max_epochs=max_epochs.get(share.corpus, share.max_epochs))
            for share in self.shares
        )
        return Blend(shares=tuple(shares))


def blend(**weights: float) -> Blend:
    """`blend(web=0.9, qa=0.1)`; corpus names use underscores."""
    return Blend(shares=tuple(Share(corpus=corpus, weight=weight) for corpus, weight in weights.items()))
