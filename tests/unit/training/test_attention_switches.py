"""Why `gpu_environment` refuses some variables: what the installed Megatron-Core does with them."""

from types import SimpleNamespace

import pytest
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.enums import AttnBackend

from megatron_octo.training.gpu_environment import ATTENTION_SWITCHES

MODEL = SimpleNamespace(config=SimpleNamespace(attention_backend=AttnBackend.auto))


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, and what Megatron-Core sets is forgotten."""
    for name in ATTENTION_SWITCHES:
        monkeypatch.setenv(name, "1")


@pytest.mark.parametrize("name", ATTENTION_SWITCHES)
def test_any_other_value_than_1_is_an_assertion(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(AssertionError, match=f"{name} set to 0, but expected 1"):
        LanguageModule._set_attention_backend(MODEL)


def test_1_and_unset_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ATTENTION_SWITCHES[0])
    LanguageModule._set_attention_backend(MODEL)
