"""What TRL asks for while it trains: responses to a step's prompts, and what they are worth.

TRL samples through `rollout_func`, our loop in generation.py: the response cap of the step, stop strings and prompt tokens are
then the same code as in evaluation, and a step's samples depend on (seed, step, weights) alone.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import trl

from megatron_octo import generation, jsonl
from megatron_octo.generation import Response
from megatron_octo.rl.config import RLJob
from megatron_octo.rl.prompts import Prompt
from megatron_octo.rl.rewards import Scorer, score_all
from megatron_octo.rl.rollouts import Rollout


@dataclass(eq=False, kw_only=True)
class Sampling:
    """Responses and what they are worth, in training and evaluation; every one is noted in `file`."""

    job: RLJob
    file: Path
    #: Of the step under way.
    rollouts: Sequence[Rollout] = ()
    seconds_generation: float = 0.0
    seconds_grading: float = 0.0

    def __post_init__(self) -> None:
        self._scorer = Scorer(self.job.recipe.reward)

    def forget_after(self, step: int) -> None:
        """Drop what was sampled after a step. Evaluations of a step stand before the training of the next."""
        first = step * self.job.recipe.prompts_per_step
        found = jsonl.read(self.file) if step else ()
        jsonl.replace(
            self.file, itertools.takewhile(lambda row: row["eval_set"] is not None or row["prompt"] < first, found)
        )

    def sample(self, texts: list[str], trainer: trl.GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: responses for one step's prompts, each of which comes `samples_per_prompt` times."""
        recipe = self.job.recipe
        step = trainer.state.global_step // recipe.updates_per_step
        # What `Loss.FIXED_LENGTH` divides by until the next batch is sampled.
        trainer.max_completion_length = recipe.max_response_tokens(step)
        started = time.perf_counter()
        responses = generation.generate(
            trainer.model,
            trainer.processing_class,
            texts,
            max_new_tokens=recipe.max_response_tokens(step),
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            batch_size=self.job.generation_batch_responses,
            seed=Random(f"{recipe.seed}/{step}").getrandbits(63),
            stop_strings=recipe.stop_strings,
        )
        self.seconds_generation = time.perf_counter() - started
        return {
            "prompt_ids": [response.prompt_ids for response in responses],
            "completion_ids": [response.token_ids for response in responses],
            "logprobs": None,  # TRL computes them with the weights it is about to train
            "response": responses,  # handed on to the reward
        }

    def reward(
        self, *, prompts: list[str], answer: list[str], number: list[int], response: list[Response], **arguments: Any
    ) -> list[float]:
        """TRL's reward function."""
        started = time.perf_counter()
        step = arguments["trainer_state"].global_step // self.job.recipe.updates_per_step
        asked = [Prompt(text=t, answer=a, number=n) for t, a, n in zip(prompts, answer, number, strict=True)]
        self.rollouts = self._graded(asked, response, self.job.recipe.max_response_tokens(step))
        self.seconds_grading = time.perf_counter() - started
        return [rollout.reward for rollout in self.rollouts]

    def evaluate(self, asked: Sequence[Prompt], trainer: trl.GRPOTrainer) -> list[Rollout]:
        """Greedy, at the longest cap of the schedule, so that the points of a curve compare."""
        recipe = self.job.recipe
        responses = generation.generate(
            trainer.model,
            trainer.processing_class,
            [prompt.text for prompt in asked],
            max_new_tokens=recipe.longest_response_tokens,
            batch_size=self.job.generation_batch_responses,
            stop_strings=recipe.stop_strings,
        )
        return self._graded(asked, responses, recipe.longest_response_tokens)

    def _graded(self, asked: Sequence[Prompt], responses: Sequence[Response], cap: int) -> list[Rollout]:
        tokens = [len(response.token_ids) for response in responses]
        finished = [response.finished for response in responses]
        scores = score_all(
            self._scorer,
            [response.text for response in responses],
            [prompt.answer for prompt in asked],
            tokens=tokens,
            finished=finished,
            cap=cap,
        )
        graded = [
            Rollout(prompt=prompt.number, eval_set=prompt.eval_set, tokens=length, finished=ended, **asdict(score))
            for prompt, length, ended, score in zip(asked, tokens, finished, scores, strict=True)
        ]
        jsonl.append(self.file, map(asdict, graded))
        return graded
