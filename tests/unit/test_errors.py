import pytest

from megatron_octo.errors import ArtifactError, ConfigError, CorpusError, OctoError, ResourceError, nearest


@pytest.mark.parametrize(
    ("name", "allowed", "hint"),
    [
        ("peak_rl", ["peak_lr", "min_lr", "style"], "; nearest: peak_lr"),
        ("zzz", ["peak_lr", "min_lr"], "; allowed: min_lr, peak_lr"),
        ("zzz", [f"name_{number}" for number in range(21)], ""),
        ("decay", ["decay_a", "decay_b", "decay_c", "decay_d"], "; nearest: decay_d, decay_c, decay_b"),
    ],
)
def test_nearest(name: str, allowed: list[str], hint: str) -> None:
    assert nearest(name, allowed) == hint


@pytest.mark.parametrize("kind", [ConfigError, CorpusError, ArtifactError, ResourceError])
def test_errors_for_people_are_value_errors(kind: type) -> None:
    assert issubclass(kind, OctoError)
    assert issubclass(kind, ValueError)
