r"""A page's paragraphs as plain text or as HTML, with what surrounds them on the web. Formulas stand between `\(` and `\)`.

On a page of HTML all formulas are written in one of four ways: left for MathJax, in its script elements, as KaTeX leaves them
(MathML with the LaTeX as annotation) or as MathML alone.
"""

import html
import re
from collections.abc import Callable, Sequence
from random import Random

PLACE = re.compile(r"\\\((.+?)\\\)")
MENUS = (
    ("Home", "Courses", "Library", "About us", "Contact"),
    ("Start", "Forum", "Tags", "Users", "Sign in"),
    ("News", "Shop", "Downloads", "Support", "Search"),
    ("Index", "Modules", "Next", "Previous", "Show source"),
)
NOTICES = (
    "Subscribe to our newsletter and never miss a post!",
    "We use cookies to give you the best experience. Accept all cookies",
    "Share on Facebook | Share on Twitter | Print this page",
    "Advertisement: learn anything in ten minutes a day, now 40% off",
    "Log in to leave a comment",
    "Related posts you may like",
)
_PIECE = re.compile(r"\\[a-z]+|\d+(?:\.\d+)?|[A-Za-z]'?|[{}^_]|\S")
_SCRIPTS = {"^": "msup", "_": "msub"}
_SIGNS = {r"\cdot": "⋅", r"\pm": "±", r"\to": "→", r"\gcd": "gcd"}


def as_text(rng: Random, title: str, paragraphs: Sequence[str]) -> str:
    """As an extractor leaves it: now and then with a line or two of what surrounded it."""
    around = rng.sample(NOTICES, rng.choice((0, 0, 1, 2)))
    return "\n\n".join([title, *paragraphs, *around])


def as_html(rng: Random, title: str, paragraphs: Sequence[str], write: Callable[[str], str]) -> str:
    """A whole page: head, menu, notices, the text, footer. `write` is one of `WAYS` to write a formula."""
    name, menu = html.escape(title), rng.choice(MENUS)
    body = "\n".join(_element(text, write) for text in paragraphs)
    links = "".join(f'<li><a href="/{word.lower().replace(" ", "-")}">{word}</a></li>' for word in menu)
    first, second, third = rng.sample(NOTICES, 3)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name} - {menu[0]}</title>
<style>body {{ font-family: sans-serif }}</style><script>window.dataLayer = [];</script></head>
<body><header><nav><ul>{links}</ul></nav></header>
<div class="advertisement">{first}</div>
<main><article><h1>{name}</h1>
{body}
</article></main>
<aside class="sidebar"><p>{second}</p></aside>
<footer><p>{third}</p><p>Copyright {rng.randint(2001, 2024)}. All rights reserved.</p></footer>
</body></html>
"""


def _element(text: str, write: Callable[[str], str]) -> str:
    return f"<p>{PLACE.sub(lambda found: write(found[1]), html.escape(text, quote=False))}</p>"


def _mathjax(formula: str) -> str:
    return rf"\({formula}\)"


def _mathjax_script(formula: str) -> str:
    return f'<script type="math/tex">{html.unescape(formula)}</script>'


def _katex(formula: str) -> str:
    annotation = f'<annotation encoding="application/x-tex">{formula}</annotation>'
    return f'<span class="katex"><math><semantics><mrow>{_row(formula)}</mrow>{annotation}</semantics></math></span>'


def mathml(formula: str) -> str:
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML"><mrow>{_row(formula)}</mrow></math>'


#: What is made of a formula of LaTeX, escaped as HTML.
WAYS: tuple[Callable[[str], str], ...] = (_mathjax, _mathjax_script, _katex, mathml)


# LaTeX to MathML, as far as the formulas of page_math.py go ------------------------------------------------------------


def _row(formula: str) -> str:
    pieces = _PIECE.findall(html.unescape(formula))
    elements: list[str] = []
    while pieces:
        elements.append(_next(pieces))
        if pieces and pieces[0] in _SCRIPTS:
            name = _SCRIPTS[pieces.pop(0)]
            elements.append(f"<{name}>{elements.pop()}{_next(pieces)}</{name}>")
    return "".join(elements)


def _next(pieces: list[str]) -> str:
    """The element that begins here; its pieces are taken away."""
    piece = pieces.pop(0)
    if piece == "{":
        inside: list[str] = []
        depth = 1
        while depth := depth + {"{": 1, "}": -1}.get(pieces[0], 0):
            inside.append(pieces.pop(0))
        pieces.pop(0)
        return f"<mrow>{_row(' '.join(inside))}</mrow>"
    if piece == r"\frac":
        return f"<mfrac>{_next(pieces)}{_next(pieces)}</mfrac>"
    if piece == r"\sqrt":
        return f"<msqrt>{_next(pieces)}</msqrt>"
    kind = "mn" if piece[0].isdigit() else "mi" if piece[0].isalpha() else "mo"
    return f"<{kind}>{html.escape(_SIGNS.get(piece, piece))}</{kind}>"
