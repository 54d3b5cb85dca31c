from pathlib import Path

import pytest
import raw_corpora
from datatrove.data import Document

from megatron_octo.curation.config import Language
from megatron_octo.curation.languages import Identifier, InLanguage, shown
from megatron_octo.errors import ConfigError

GERMAN = "Der Satz des Pythagoras besagt, dass die Quadrate über den Katheten zusammen so groß sind wie das über der Hypotenuse."
#: As it stands, lid.176.ftz is not sure of it: formulas outweigh the words.
FORMULAS = r"Then $$\int_a^b f(x)\,dx = F(b)-F(a)$$ where $F' = f$ and $$x^2 - 5x + 6 = 0 \Rightarrow (x-2)(x-3)=0$$ so that is why we are done."


@pytest.mark.parametrize(("text", "language"), [(raw_corpora.PROSE, "en"), (FORMULAS, "en"), (GERMAN, "de")])
def test_identifies(text: str, language: str) -> None:
    found, score = Identifier(None).identify(text)
    assert found == language
    assert 0.65 < score <= 1


@pytest.mark.parametrize("text", ["", "12 + 34 = 46", r"$$\frac{1}{2}$$", "\n"])
def test_texts_without_words_have_no_language(text: str) -> None:
    assert Identifier(None).identify(text) == ("und", 0.0)


def test_shows_words_alone() -> None:
    assert shown("Let $x^2$ be\n\\(y\\) or \\[z\\] 12 \\alpha here.\\begin{align*}q\\end{align*}") == "Let be or here."


def test_filter_notes_language_and_gives_reasons() -> None:
    documents = InLanguage(Language(min_score=0.5))
    english = Document(text=raw_corpora.PROSE, id="1")
    assert documents.filter(english) is True
    assert english.metadata["lang"] == "en"
    assert 0.5 < english.metadata["lang_score"] <= 1
    assert documents.filter(Document(text=GERMAN, id="2")) == (False, "other")
    strict = InLanguage(Language(min_score=1.0))
    assert strict.filter(Document(text="so we go on", id="3")) == (False, "low_score")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"model\.bin is no fastText model"):
        Identifier(tmp_path / "model.bin")
