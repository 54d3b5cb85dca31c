r"""MathML to LaTeX: presentation markup, as browsers show it. `<msup><mi>x</mi><mn>2</mn></msup>` -> `x^2`.

Not mathml-to-latex (PyPI; 1.0.0 is its only release): it wants strict XML, and pages are not: one `&nbsp;` and the formula is lost.
Works on the nodes of resiliparse's tree, whatever parser's quirks made them.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

#: Elements inside each other; deeper ones give their text. Real formulas stay below twenty (guess).
MAX_DEPTH = 60
ELEMENT, TEXT = 1, 3  # node types of the DOM standard

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega"
#: The other capitals look Latin and have no command.
_UNLIKE_LATIN = {"gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"}
_OPERATORS = """
± pm ∓ mp × times ÷ div · cdot ⋅ cdot ∗ ast ∘ circ ⊕ oplus ⊗ otimes ≤ le ≥ ge ≠ ne ≪ ll ≫ gg ≈ approx ≡ equiv ≅ cong ∼ sim ≃ simeq
∝ propto ∈ in ∉ notin ∋ ni ⊂ subset ⊃ supset ⊆ subseteq ⊇ supseteq ∪ cup ∩ cap ∖ setminus ∅ emptyset ∀ forall ∃ exists ¬ neg ∧ wedge
∨ vee ⇒ Rightarrow ⟹ Longrightarrow ⇐ Leftarrow ⇔ Leftrightarrow ⟺ Longleftrightarrow → to ⟶ longrightarrow ← gets ↔ leftrightarrow
↦ mapsto ∞ infty ∂ partial ∇ nabla ∫ int ∬ iint ∭ iiint ∮ oint ∑ sum ∏ prod ∐ coprod ⋃ bigcup ⋂ bigcap √ surd ∠ angle ⊥ perp ∥ parallel
∣ mid … ldots ⋯ cdots ⋮ vdots ⋱ ddots ⟨ langle ⟩ rangle ⌊ lfloor ⌋ rfloor ⌈ lceil ⌉ rceil ‖ | ℏ hbar ℓ ell ϵ epsilon ϕ phi ϑ vartheta
ε varepsilon φ varphi ∴ therefore ∵ because △ triangle □ square ★ star † dagger
"""
_ESCAPED = {character: f"\\{character}" for character in "{}%&#_$"} | {"\\": r"\backslash", "~": r"\sim"}
_PLAIN = {"−": "-", "′": "'", "″": "''", "‴": "'''", "‐": "-", "∕": "/", "⁄": "/", "\xa0": " "}
_SETS = {character: rf"\mathbb{{{letter}}}" for character, letter in zip("ℂℍℕℙℚℝℤ", "CHNPQRZ", strict=True)}
#: Function application, invisible times, separator and plus, spaces of no width.
_INVISIBLE = dict.fromkeys("\u2061\u2062\u2063\u2064\u200b\ufeff", "")
_ACCENTS = {
    "¯": "bar", "‾": "overline", "_": "underline", "^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "→": "vec", "⃗": "vec",
    "˙": "dot", "¨": "ddot", "ˇ": "check", "⏞": "overbrace", "⏟": "underbrace", "-": "bar",
}  # fmt: skip
_FUNCTIONS = (
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max min Pr sec sin "
    "sinh sup tan tanh"
)
#: Below and above these, limits are written as sub- and superscripts.
_WITH_LIMITS = re.compile(
    r"\\(sum|prod|coprod|int|iint|iiint|oint|bigcup|bigcap|lim|liminf|limsup|max|min|sup|inf|gcd|det|Pr|mathrm\{.*\})$"
)
#: Mathematical alphanumeric symbols.
_PAINTED = re.compile("[\U0001d400-\U0001d7ff]")
_COMMAND_AT_END = re.compile(r"\\[A-Za-z]+$")
_ONE_TOKEN = re.compile(r"[^\\{}\s]|\\[A-Za-z]+|\\.")


def _greek() -> dict[str, str]:
    names = {}
    for name in _GREEK.split():
        for size, command in (("SMALL", name), ("CAPITAL", name.capitalize())):
            letter = unicodedata.lookup(f"GREEK {size} LETTER {'LAMDA' if name == 'lambda' else name.upper()}")
            latin = size == "CAPITAL" and name not in _UNLIKE_LATIN
            names[letter] = letter if latin else f"\\{command}"
    return names


def _operators() -> dict[str, str]:
    words = _OPERATORS.split()
    return {character: f"\\{name}" for character, name in zip(words[::2], words[1::2], strict=True)}


_FUNCTION_NAMES = frozenset(_FUNCTIONS.split())
_SYMBOLS = _greek() | _operators() | _ESCAPED | _PLAIN | _SETS | _INVISIBLE


def to_latex(math: Any) -> str:
    """LaTeX of a `<math>` element, without dollar signs."""
    return _latex(math, 0).strip()


def joined(pieces: Sequence[str]) -> str:
    r"""Pieces in a row: `\alpha`, `x` -> `\alpha x`."""
    text = ""
    for piece in pieces:
        apart = piece[:1].isalpha() and _COMMAND_AT_END.search(text)
        text += f" {piece}" if apart else piece
    return text


def _latex(node: Any, depth: int) -> str:
    if node.type == TEXT:
        return _characters(node.text.strip())
    if node.type != ELEMENT:
        return ""
    if depth > MAX_DEPTH:
        return _characters(node.text)
    # Some pages have a prefix: m:mfrac.
    tag = node.tag.rpartition(":")[2]
    if tag in _LEAVES:
        return _LEAVES[tag](node)
    children = [_latex(child, depth + 1) for child in node.child_nodes if child.type == ELEMENT or child.text.strip()]
    return _BRANCHES.get(tag, _row)(node, children)


def _characters(text: str) -> str:
    return joined([_SYMBOLS.get(character, character) for character in _PAINTED.sub(_unpainted, text)])


def _unpainted(found: re.Match[str]) -> str:
    """`𝑥` -> `x`."""
    return unicodedata.normalize("NFKC", found[0])


def _group(latex: str) -> str:
    return latex if _ONE_TOKEN.fullmatch(latex) else f"{{{latex}}}"


# Leaves ---------------------------------------------------------------------------------------------------------------


def _identifier(node: Any) -> str:
    name = node.text.strip()
    if name in _FUNCTION_NAMES:
        return f"\\{name}"
    latex = _characters(name)
    if node.getattr("mathvariant") == "double-struck" and len(name) == 1:
        return rf"\mathbb{{{name}}}"
    return rf"\mathrm{{{name}}}" if len(name) > 1 and name.isascii() and name.isalpha() else latex


def _operator(node: Any) -> str:
    text = node.text.strip()
    return f"\\{text}" if text in _FUNCTION_NAMES else _characters(text)


def _text(node: Any) -> str:
    text = " ".join(node.text.split())
    return rf"\text{{ {text} }}" if text else " "


_LEAVES: dict[str, Callable[[Any], str]] = {
    "mi": _identifier,
    "mo": _operator,
    "mn": lambda node: _characters(node.text.strip()),
    "mtext": _text,
    "ms": _text,
    "mspace": lambda node: " ",
    "mphantom": lambda node: "",
    "none": lambda node: "",
    "mprescripts": lambda node: "",
    "annotation": lambda node: "",
    "annotation-xml": lambda node: "",
}


# Branches: a node and the LaTeX of its children -----------------------------------------------------------------------


def _row(node: Any, children: Sequence[str]) -> str:
    return joined(children)


def _of(count: int, write: Callable[..., str]) -> Callable[[Any, Sequence[str]], str]:
    """For elements with so many children; a page's mistake becomes a row."""
    return lambda node, children: write(*children) if len(children) == count else joined(children)


def _fenced(node: Any, children: Sequence[str]) -> str:
    # An attribute that is empty means no fence; one that is missing, the default.
    fences = [
        node.getattr(name) if node.hasattr(name) else default for name, default in (("open", "("), ("close", ")"))
    ]
    first, last = (_characters(fence or "") for fence in fences)
    separator = (node.getattr("separators") if node.hasattr("separators") else ",") or ""
    return joined([first, separator[:1].join(children), last])


def _under(base: str, below: str) -> str:
    return _decorated(base, below) or (
        f"{base}_{_group(below)}" if _WITH_LIMITS.search(base) else rf"\underset{{{below}}}{{{base}}}"
    )


def _over(base: str, above: str) -> str:
    return _decorated(base, above) or (
        f"{base}^{_group(above)}" if _WITH_LIMITS.search(base) else rf"\overset{{{above}}}{{{base}}}"
    )


def _decorated(base: str, mark: str) -> str | None:
    """`x`, `¯` -> `\bar{x}`; None where the mark is no accent."""
    accent = _ACCENTS.get(mark) or {r"\to": "vec", r"\_": "underline", r"\sim": "tilde"}.get(mark)
    return f"\\{accent}{{{base}}}" if accent else None


def _under_over(base: str, below: str, above: str) -> str:
    if _WITH_LIMITS.search(base):
        return f"{base}_{_group(below)}^{_group(above)}"
    return _over(_under(base, below), above)


def _scripts(node: Any, children: Sequence[str]) -> str:
    """mmultiscripts: base, pairs after it, mprescripts, pairs before it."""
    tags = [child.tag for child in node.child_nodes if child.type == ELEMENT]
    cut = tags.index("mprescripts") if "mprescripts" in tags else len(tags)
    after, before = children[1:cut], children[cut + 1 :]
    left = f"{{}}{_pairs(before)}" if before else ""
    return f"{left}{_group(children[0])}{_pairs(after)}" if children else ""


def _pairs(scripts: Sequence[str]) -> str:
    pairs = zip(scripts[::2], scripts[1::2], strict=False)
    return "".join((f"_{_group(sub)}" if sub else "") + (f"^{_group(sup)}" if sup else "") for sub, sup in pairs)


def _table(node: Any, children: Sequence[str]) -> str:
    lines = r" \\ ".join(children)
    return rf"\begin{{matrix}} {lines} \end{{matrix}}"


_BRANCHES: dict[str, Callable[[Any, Sequence[str]], str]] = {
    "mfrac": _of(2, lambda top, bottom: rf"\frac{{{top}}}{{{bottom}}}"),
    "msqrt": lambda node, children: rf"\sqrt{{{joined(children)}}}",
    "mroot": _of(2, lambda base, index: rf"\sqrt[{index}]{{{base}}}"),
    "msup": _of(2, lambda base, sup: f"{_group(base)}^{_group(sup)}"),
    "msub": _of(2, lambda base, sub: f"{_group(base)}_{_group(sub)}"),
    "msubsup": _of(3, lambda base, sub, sup: f"{_group(base)}_{_group(sub)}^{_group(sup)}"),
    "munder": _of(2, _under),
    "mover": _of(2, _over),
    "munderover": _of(3, _under_over),
    "mmultiscripts": _scripts,
    "mfenced": _fenced,
    "mtable": _table,
    "mtr": lambda node, children: " & ".join(children),
    "mlabeledtr": lambda node, children: " & ".join(children[1:]),
    # The first child is the presentation, the others say the same in other languages.
    "semantics": lambda node, children: children[0] if children else "",
}
