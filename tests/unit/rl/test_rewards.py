"""The boxed reward: +1, -1, and what it reports."""

from megatron_octo.rl.rewards import boxed_reward


def rewarded(completions: list[str], answers: list[str]) -> tuple[list[float], dict[str, float]]:
    logged: dict[str, float] = {}
    rewards = boxed_reward(
        completions=completions,
        completion_ids=[[0] * len(completion) for completion in completions],
        answer=answers,
        finished=[True] * (len(completions) - 1) + [False],
        log_metric=logged.__setitem__,
        prompts=["what TRL also passes"] * len(completions),
    )
    return rewards, logged


def test_only_the_last_box_earns() -> None:
    completions = [r"\boxed{3}", r"\boxed{3} no \boxed{4}", "3", r"\boxed{4}"]
    rewards, logged = rewarded(completions, ["3", "3", "3", "3"])
    assert rewards == [1.0, -1.0, -1.0, -1.0]
    assert logged == {"accuracy": 0.25, "response_length_correct": 9.0, "truncated": 0.25, "grading_timeouts": 0}


def test_a_box_after_the_next_turn_began_earns_nothing() -> None:
    rewards, logged = rewarded([r"4 Question: 1+2 Answer: \boxed{3}"], ["3"])
    assert rewards == [-1.0]
    assert "response_length_correct" not in logged
