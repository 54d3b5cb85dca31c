"""What is known of one sampled response, whichever engine sampled it: a line of JSON, from which every metric is made."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One response, graded."""

    #: Place of its prompt in the order of the run, or in its evaluation set; the samples of one prompt share it.
    prompt: int
    #: Name of the evaluation set; None in training.
    eval_set: str | None
    correct: bool
    reward: float
    #: Sampled tokens, EOS included.
    tokens: int
    #: By EOS or a stop string; False at the cap.
    finished: bool
    #: Closed boxes in the response.
    boxes: int
    #: Share of its 20-grams of characters that occurred before in it, 0 to 1.
    repetition: float
    #: The grader gave up on it.
    timeout: bool


def append(file: Path, rollouts: Iterable[Rollout]) -> None:
    """One write for all lines, so that lines of two processes do not mix."""
    text = "".join(json.dumps(asdict(rollout)) + "\n" for rollout in rollouts)
    with file.open("a") as stream:
        stream.write(text)


def read(file: Path) -> Iterator[Rollout]:
    """All whole lines; a kill may have cut the last one."""
    for line in file.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield Rollout(**json.loads(line))
