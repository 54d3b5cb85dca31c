"""What engines take and give: prompts as text, completions as text. No torch here."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int
    #: 0 is greedy.
    temperature: float
    top_p: float
    #: A completion ends before these, and they are cut off.
    stop_strings: tuple[str, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    #: Sampled tokens, EOS or those of the stop string included.
    num_tokens: int
    #: By EOS or a stop string; False at the cap.
    finished: bool


class Completer(Protocol):
    """A model that completes prompts."""

    def complete(
        self, prompts: Sequence[str], sampling: Sampling, *, done: Collection[int]
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Complete all prompts but the `done` ones; what is finished together comes together, with its places in `prompts`.

        The completion of a prompt depends on `prompts`, `sampling` and its place alone, not on `done`: a continued
        evaluation gives what an unbroken one gives.
        """
