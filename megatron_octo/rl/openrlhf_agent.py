"""How OpenRLHF samples and scores: the class behind `--train.agent_func_path`, one object in every vLLM engine's Ray actor.

OpenRLHF's own single-turn executor knows no stop strings, adds no BOS, cuts over-long prompts from the left, and turns an
exception of the reward into a reward of None, of which the run dies later with another message. Here the prompt's tokens are
those of training documents, a response ends where it ends in evaluation, and an exception travels.

Every response leaves a line in ROLLOUTS/<host>-<pid>.jsonl; the run makes its metrics of them (openrlhf_logs.py).
"""

import asyncio
import copy
import json
import os
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from megatron_octo import config, jsonl, templates
from megatron_octo.rl import rewards
from megatron_octo.rl.config import RLJob
from megatron_octo.rl.rewards import Score, Scorer
from megatron_octo.rl.rollouts import Rollout

_FILE = """\
# Written for one run by megatron-octo: OpenRLHF loads it in every vLLM engine.
from pathlib import Path

from megatron_octo.rl.openrlhf_agent import Executor
from openrlhf.utils.agent import AgentExecutorBase


class AgentExecutor(Executor, AgentExecutorBase):
    def __init__(self):
        super().__init__(job=Path({job!r}), rollouts=Path({rollouts!r}))
"""


def write_files(directory: Path, job: RLJob, *, rollouts: Path) -> Path:
    """`agent.py`, the file to name in `--train.agent_func_path`, and `job.json` that it reads, on a disk that every node sees.

    Ray's workers have other working directories, so the paths in both are whole.
    """
    reward = rewards.with_whole_path(job.recipe.reward)
    own, agent = directory / "job.json", directory / "agent.py"
    own.write_text(config.dumps(replace(job, recipe=replace(job.recipe, reward=reward))))
    agent.write_text(_FILE.format(job=str(own.resolve()), rollouts=str(rollouts.resolve())))
    return agent


class Executor:
    """One prompt in, one scored response out, in the form OpenRLHF 0.11 expects of an agent."""

    def __init__(self, *, job: Path, rollouts: Path) -> None:
        self._recipe = config.load(RLJob, job).recipe
        self._scorer = Scorer(self._recipe.reward)
        rollouts.mkdir(parents=True, exist_ok=True)
        self._file = rollouts / f"{socket.gethostname()}-{os.getpid()}.jsonl"

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """Sample and score. `label` is the JSON that `prompts.openrlhf_rows` made."""
        asked = json.loads(label)
        training = asked["eval_set"] is None
        # The text begins with BOS where the tokenizer's documents do, so nothing may be added (prompts.py checked the ids).
        prompt_ids = list(hf_tokenizer(prompt, add_special_tokens=False)["input_ids"])
        params = self._sampling(sampling_params, training=training, room=max_length - len(prompt_ids))
        output = (await llm_engine.generate(prompt_ids, copy.deepcopy(params))).outputs[0]
        response_ids = list(output.token_ids)
        score = await asyncio.to_thread(
            self._score,
            hf_tokenizer,
            response_ids,
            asked,
            finished=output.finish_reason != "length",
            cap=params.max_tokens,
        )
        accuracy = float(score.correct)
        return {
            "prompt": prompt,
            "label": label,
            "images": images,
            "mm_train_inputs": None,
            "observation_tokens": prompt_ids + response_ids,
            "action_ranges": [(len(prompt_ids), len(prompt_ids) + len(response_ids))],
            "rollout_log_probs": _log_probs(output, prompt_ids),
            "truncated": output.finish_reason == "length",
            # Evaluations average rewards, and must report accuracy.
            "reward": score.reward if training else accuracy,
            "scores": accuracy,
            "extra_logs": {"accuracy": accuracy, "grading_timeouts": float(score.timeout)},
        }

    def _sampling(self, given: Any, *, training: bool, room: int) -> Any:
        """Raises `ValueError` for a prompt that leaves no room; those of training were dropped before (prompts.py)."""
        params = copy.deepcopy(given)
        params.stop = list(self._recipe.stop_strings)
        params.include_stop_str_in_output = True  # the tokens train; the text is cut below
        params.max_tokens = min(room, given.max_tokens if training else self._recipe.longest_response_tokens)
        if params.max_tokens < 1:
            raise ValueError(f"a prompt leaves {room} tokens of --data.max_len for its response")
        return params

    def _score(self, tokenizer: Any, ids: list[int], asked: dict[str, Any], *, finished: bool, cap: int) -> Score:
        text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        text = templates.before_stop(text, self._recipe.stop_strings)
        score = self._scorer(text, asked["answer"], tokens=len(ids), finished=finished, cap=cap)
        rollout = Rollout(
            prompt=asked["number"], eval_set=asked["eval_set"], tokens=len(ids), finished=finished, **asdict(score)
        )
        jsonl.append(self._file, [{"time": time.time(), "rollout": asdict(rollout)}])
        return score


def _log_probs(output: Any, prompt_ids: list[int]) -> list[float] | None:
    """vLLM's log-probability of each sampled token, zeros for the prompt; None where they were not asked for."""
    if output.logprobs is None:
        return None
    return [0.0] * len(prompt_ids) + [
        step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)
    ]
