"""What curation is. Today: the generated world of the tiny study."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """A corpus of the generated world and how many documents of it to write."""

    corpus: str
    documents: int


@dataclass(frozen=True, kw_only=True)
class TinyWorld:
    """A small generated world of text in which reasoning can be learned and checked exactly (`curation/world.py`)."""

    seed: int
    corpora: tuple[CorpusSize, ...]
    #: Questions RL trains on; disjoint from the test questions.
    rl_problems: int
    #: Held-out questions; no training document and no RL question contains one.
    test_problems: int
