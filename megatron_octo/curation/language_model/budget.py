"""A hard limit of tokens that all processes and tries of a stage share.

Counted is what the answers on disk report. A request may go out when what it could cost at most still fits beside those and beside
what others may be spending. What a server was at when a connection broke or a process was killed is not counted: nobody is told.

Processes claim tokens in blocks in one small file beside the answers, so that a thousand requests a second over all machines of a cluster
do not queue for its lock.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from megatron_octo import artifacts
from megatron_octo.curation.language_model.answers import lock_of, tokens_in
from megatron_octo.errors import ArtifactError, ResourceError

CLAIMS = ".claims.json"
#: What a chat template puts around a prompt (guess: Llama 3.1's, with its date, takes 40).
TEMPLATE_TOKENS = 128
#: A process claims no more than this share of what is left, so that little lies idle when the budget ends.
SHARE_OF_THE_REST = 16


class BudgetSpent(ResourceError):  # noqa: N818 - said as it happened
    """`max_tokens` does not allow another request; a rerun with a higher one continues."""


def most_tokens(prompt: str, max_new_tokens: int) -> int:
    """What a request can cost: no tokenizer makes more than one token of a byte."""
    return len(prompt.encode()) + TEMPLATE_TOKENS + max_new_tokens


class Budget:
    """This process's part of it. Without a limit nothing is claimed and nothing written."""

    def __init__(self, cache: Path, *, used: int, max_tokens: int | None, concurrency: int) -> None:
        """`cache` is the file of answers that this process works on; they have cost `used` tokens so far."""
        self._cache, self._used, self._max_tokens = cache, used, max_tokens
        self._concurrency = concurrency
        #: Claimed, and not promised to a request.
        self._free = 0
        self._promised = 0
        if max_tokens is None:
            (cache.parent / CLAIMS).unlink(missing_ok=True)  # out of date from here on
        else:
            self._settle_claim()

    def reserve(self, tokens: int) -> bool:
        """Promise tokens to a request; False where requests under way must end first. Raises `BudgetSpent`."""
        if self._max_tokens is not None:
            if self._free < tokens:
                self._free += self._claim(tokens - self._free, self._max_tokens)
            if self._free < tokens:
                return False
            self._free -= tokens
            self._promised += tokens
        return True

    def settle(self, reserved: int, used: int) -> None:
        """A request is over and has cost `used` tokens, 0 where it failed."""
        self._used += used
        self._promised -= reserved
        self._free += reserved - used

    def close(self) -> None:
        """Give back what was not needed."""
        if self._max_tokens is not None:
            self._settle_claim()

    def _settle_claim(self) -> None:
        with self._claims() as claims:
            claims[self._cache.name] = self._used

    def _claim(self, needed: int, max_tokens: int) -> int:
        """Tokens claimed, `needed` or more; 0 where there are too few and requests under way may give some back."""
        with self._claims() as claims:
            if sum(claims.values()) + needed > max_tokens:
                claims |= self._of_the_dead(claims)
            rest = max_tokens - sum(claims.values())
            if rest >= needed:
                block = max(needed, min(needed * self._concurrency, rest // SHARE_OF_THE_REST))
                claims[self._cache.name] += block
                return block
        if self._promised:
            return 0
        raise BudgetSpent(
            f"max_tokens={max_tokens:,} does not allow another request: {max_tokens - rest:,} tokens are used or claimed, and the next "
            f"request may need {needed:,} more; run the same command again with a higher max_tokens: what is answered is kept"
        )

    def _of_the_dead(self, claims: dict[str, int]) -> dict[str, int]:
        """What those have really used whose process is gone."""
        used = {}
        for name in claims.keys() - {self._cache.name}:
            file = self._cache.with_name(name)
            with contextlib.suppress(ArtifactError), artifacts.alone(lock_of(file), shared=False):
                used[name] = tokens_in(file)
        return used

    @contextlib.contextmanager
    def _claims(self) -> Iterator[dict[str, int]]:
        """By file of answers, to be changed in place; no other process looks at them meanwhile."""
        folder = self._cache.parent
        with (folder / f"{CLAIMS}.lock").open("w") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                claims = json.loads((folder / CLAIMS).read_text())
            except (FileNotFoundError, ValueError):
                claims = {file.name: tokens_in(file) for file in folder.glob("*.jsonl")}
            yield claims
            temporary = folder / f"{CLAIMS}.tmp"
            temporary.write_text(json.dumps(claims))
            os.replace(temporary, folder / CLAIMS)
