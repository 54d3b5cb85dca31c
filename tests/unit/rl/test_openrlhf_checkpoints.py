"""DeepSpeed's folders below OUT/openrlhf/checkpoints."""

from pathlib import Path

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.rl.openrlhf_checkpoints import Checkpoints


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Of policy and critic; the newest was cut by a kill."""
    for role in ("_actor", "_critic"):
        for step in (5, 10, 15):
            (tmp_path / role / f"global_step{step}").mkdir(parents=True)
        (tmp_path / role / "latest").write_text("global_step10\n")
    return Checkpoints(directory=tmp_path)


def test_the_newest_is_the_one_openrlhf_goes_on_from(checkpoints: Checkpoints) -> None:
    assert checkpoints.steps() == [5, 10, 15]
    assert checkpoints.newest() == 10
    assert checkpoints.of(10) == checkpoints.directory / "_actor/global_step10"


def test_a_run_that_has_saved_nothing_has_none(tmp_path: Path) -> None:
    none = Checkpoints(directory=tmp_path / "checkpoints")
    assert (none.steps(), none.newest()) == ([], None)


def test_all_roles_forget_what_came_after_a_step(checkpoints: Checkpoints) -> None:
    checkpoints.forget_after(5)
    assert (checkpoints.steps(), checkpoints.newest()) == ([5], 5)
    critic = checkpoints.directory / "_critic"
    assert sorted(path.name for path in critic.iterdir()) == ["global_step5", "latest"]
    assert (critic / "latest").read_text() == "global_step5"


def test_a_step_without_a_checkpoint_is_refused_and_nothing_is_lost(checkpoints: Checkpoints) -> None:
    with pytest.raises(ConfigError, match=r"restart_from=7: .* has no checkpoint of that step \(it has: 5, 10, 15\)"):
        checkpoints.forget_after(7)
    assert checkpoints.steps() == [5, 10, 15]
