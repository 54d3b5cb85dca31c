"""GRPO through `megatron_octo.rl.run` teaches a tiny Llama one-digit addition: from about half of the sums to 85 % and more."""

import json
from pathlib import Path

import pytest
import tiny_arithmetic

from megatron_octo.rl import run as rl_run


@pytest.mark.slow
def test_a_model_that_adds_half_of_the_digits_learns_the_others(tmp_path: Path) -> None:
    model, questions = tiny_arithmetic.make(tmp_path)
    assert 0.4 <= tiny_arithmetic.accuracy(model) <= 0.6
    rl_run.run(tiny_arithmetic.job(model, questions), tmp_path / "rl", force=False)
    assert tiny_arithmetic.accuracy(tmp_path / "rl" / "model") >= 0.85

    rows = [json.loads(line) for line in (tmp_path / "rl" / "metrics.jsonl").read_text().splitlines()]
    curve = [row["eval/sums/accuracy"] for row in rows if "eval/sums/accuracy" in row]
    assert curve[0] <= 0.6
    assert curve[-1] >= 0.85
    # ` \boxed{7}` and EOS are 11 tokens, two digits take one more: the short cap cuts those off.
    truncated = [row["truncated"] for row in rows if "truncated" in row]
    longer_from = tiny_arithmetic.LONGER_FROM
    assert min(truncated[:longer_from]) > 0.2
    assert max(truncated[longer_from + 1 :]) < 0.2
