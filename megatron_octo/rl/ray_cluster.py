"""What a Ray cluster has, asked in a process of its own: whoever asks would stay connected.

The cluster is the one of `RAY_ADDRESS`; without it, a Ray that starts on this machine for the question.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from megatron_octo.errors import ResourceError
from megatron_octo.rl.config import ReinforcementLearning

ANSWER_SECONDS = 120.0
#: Begins the line of the answer; what Ray itself prints stands around it.
_MARK = "CLUSTER "
_PROGRAM = f"""
import json, ray
ray.init(log_to_driver=False, logging_level="ERROR")
nodes = sum(node["Alive"] for node in ray.nodes())
print("{_MARK}" + json.dumps({{"gpus": ray.cluster_resources().get("GPU", 0), "nodes": nodes}}))
"""
#: Characters of what Ray said that a message repeats.
_SAID = 500


def require_gpus(recipe: ReinforcementLearning) -> str:
    """What the placement needs and Ray has. Raises `ResourceError` where that is less: OpenRLHF would wait without a word."""
    needed, there = recipe.needed_gpus.total, gpus()
    if there < needed:
        raise ResourceError(
            f"{recipe.name} needs {needed} GPUs and Ray ({where()}) has {there:.0f}; set placement.nodes, "
            "placement.gpus_per_node or placement.rollout_gpus, or start Ray on more nodes"
        )
    return f"{needed} needed, {there:.0f} there ({where()})"


def gpus() -> float:
    """GPUs of all nodes. Raises `ResourceError` where Ray does not say."""
    return float(_ask(os.environ)["gpus"])


def nodes(environment: Mapping[str, str]) -> int:
    """Nodes that joined and are alive. Raises `ResourceError` where Ray does not say."""
    return int(_ask(environment)["nodes"])


def where(environment: Mapping[str, str] = os.environ) -> str:
    """The cluster's name in a message."""
    address = environment.get("RAY_ADDRESS")
    return "this machine" if address is None else f"RAY_ADDRESS={address}"


def _ask(environment: Mapping[str, str]) -> dict[str, Any]:
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError(
            f"no answer from Ray ({where(environment)}) in {ANSWER_SECONDS:.0f} s; is the cluster up?"
        ) from error
    answers = [line for line in asked.stdout.splitlines() if line.startswith(_MARK)]
    if not answers:
        raise ResourceError(
            f"Ray ({where(environment)}) cannot be asked what it has: {asked.stderr.strip()[-_SAID:] or 'it said nothing'}"
        )
    answer: dict[str, Any] = json.loads(answers[0].removeprefix(_MARK))
    return answer
