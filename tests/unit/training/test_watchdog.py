"""Who is to blame, from what the ranks tell; the hanging itself is in tests/integration/test_hung_ranks.py."""

import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from megatron_octo.training.watchdog import Post, Watchdog, verdict  # noqa: E402  needs torch

WAITING = "torch/distributed/distributed_c10d.py:3037 in all_reduce"


def post(rank: int, *, step: int = 7, doing: str = "optimizer", waits: bool = True, error: str | None = None) -> Post:
    frame = WAITING if waits else "site/reader.py:12 in read"
    return Post(
        rank=rank, host=f"node{rank}", step=step, doing=doing, still_seconds=600.0, frame=frame, waits=waits, error=error
    )  # fmt: skip


def judged(*posts: Post, silent: dict[int, str] | None = None) -> str:
    return verdict({found.rank: found for found in posts}, silent or {})


def test_who_does_not_answer_is_to_blame_even_if_another_is_behind() -> None:
    text = judged(post(0), post(1, step=6), silent={2: "node2"})
    assert text.startswith("rank 2 on node2 does not answer: stopped, its machine is gone, or")


def test_many_that_do_not_answer_are_counted() -> None:
    text = judged(post(0), silent=dict.fromkeys(range(8, 24), "node1"))
    assert "rank 15 on node1 and 8 more do not answer" in text
    assert "rank 16" not in text


def test_who_left_with_an_error_is_to_blame() -> None:
    text = judged(post(0), post(1, doing="left", error="OSError: disk full"), post(2, step=6))
    assert text == "rank 1 on node1 left after step 7 with OSError: disk full; the others wait"


@pytest.mark.parametrize(
    "late",
    [post(1, step=6), post(1, doing="checkpoint"), post(1, doing="forward_backward")],
    ids=["an earlier step", "checkpoint", "forward"],
)
def test_who_is_behind_is_to_blame(late: Post) -> None:
    text = judged(post(0), late, post(2))
    assert (
        text == f"behind the others is rank 1 on node1: after step {late.step}, {late.doing}, for 10m00s, at {WAITING}"
    )


def test_of_those_behind_the_last_is_to_blame() -> None:
    text = judged(post(0), post(1, doing="data"), post(2, step=6))
    assert "rank 2" in text
    assert "rank 1" not in text


def test_who_stays_in_the_loop_is_behind_those_who_are_done() -> None:
    assert judged(post(0, doing="checkpoint"), post(1, doing="left")).startswith("behind the others is rank 0")


def test_at_the_same_place_who_does_not_wait_is_to_blame() -> None:
    text = judged(post(0), post(1, waits=False), post(2))
    assert text == (
        "rank 1 on node1: after step 7, optimizer, for 10m00s, at site/reader.py:12 in read; the others wait for it"
    )


def test_nobody_is_accused_without_a_reason() -> None:
    assert judged(post(1), post(0)).startswith("all ranks wait for each other: rank 0 on node0")
    assert judged(post(0, waits=False), post(1, waits=False)).startswith(
        "all ranks are at the same place and none waits"
    )


def test_a_rank_on_its_own_waits_for_nobody() -> None:
    text = judged(post(0, waits=False))
    assert text == "rank 0 on node0: after step 7, optimizer, for 10m00s, at site/reader.py:12 in read"


def test_a_place_is_compared_by_step_first() -> None:
    assert post(0, step=8, doing="validation").place > post(0, step=7, doing="optimizer").place


def watchdog(out: Path) -> Watchdog:
    store = torch.distributed.HashStore()
    return Watchdog(timeout_seconds=60.0, rank=0, world_size=1, store=store, directory=out, say=print)


def test_it_lets_go_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    with watchdog(tmp_path) as watched:
        watched.at(1, "data")
    assert time.monotonic() - started < 1.0
    assert list(tmp_path.iterdir()) == []


def test_saying_where_a_rank_is_costs_next_to_nothing(tmp_path: Path) -> None:
    with watchdog(tmp_path) as watched:
        started = time.process_time()
        for step in range(10_000):
            watched.at(step, "data")
        assert (time.process_time() - started) / 10_000 < 1e-5


def test_a_place_that_has_no_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="tea"):
        watchdog(tmp_path).at(1, "tea")
