"""What is known of one sampled response, whichever engine sampled it: a line of JSON, from which every metric is made."""

from dataclasses import dataclass


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
