r"""Formulas of a web page, however it writes them, become LaTeX in its text, before an extractor sees (and loses) them.

What is looked for, after OpenWebMath [arXiv 2310.06786, 3.2] and the pages themselves:

    KaTeX, Wikipedia, ar5iv, MathJax 3   MathML with an annotation in TeX, or TeX as alternative text
    MathJax 2                            <script type="math/tex">, beside what it has rendered
    WordPress, forums, old Wikipedia     pictures of formulas with their TeX as alternative text
    other MathML                         is converted (mathml.py)
    <sup>, <sub> of short texts          10<sup>6</sup> -> 10^6; extractors make 106 of it

`\(..\)`, `$..$`, `$$..$$` in the text are left alone. Inline formulas become `$..$`, displayed ones `$$..$$`.
"""

import re
from typing import Any

from resiliparse.parse.html import HTMLTree

from megatron_octo.curation.raw import mathml

#: Elements that hold one formula in several forms.
_WRAPPERS = ".katex-display, .katex, .mwe-math-element, mjx-container"
#: What MathJax 2 leaves on the page beside the script.
_RENDERED = ".MathJax, .MathJax_Display, .MathJax_Preview, .MathJax_SVG, .MathJax_SVG_Display, .MJX_Assistive_MathML"
_SCRIPTS = "script[type^='math/tex']"
_PICTURES = (
    "img.tex, img.latex, img.mwe-math-fallback-image-inline, img.mwe-math-fallback-image-display, img[src*='latex']"
)
_ANNOTATION = "annotation[encoding='application/x-tex'], annotation[encoding='TeX'], annotation[encoding='LaTeX']"
#: Wikipedia wraps every formula in it.
_STYLE = re.compile(r"^\{\\(?:displaystyle|textstyle)\s*(.*)\}$", re.DOTALL)
#: Numbers and a few letters, not ordinals (1st), trade marks and footnotes ([1]).
_SCRIPT = re.compile(r"[-+−]?(?:\d{1,4}|[A-Za-z]|[ij]{2}|[nk][-+−]1|\w[\^_]\w)")
_BEFORE_SCRIPT = re.compile(r"[\w)\]]$")


def to_latex(html: str, tree: HTMLTree) -> None:
    """Replace all formulas of a parsed page, in place.

    Args:
        html: what the tree was parsed from.
    """
    page: Any = tree.document
    if page is None:
        return
    lowered = html.lower()

    def found(selector: str, *hints: str) -> Any:
        # Most pages have none of these, and a substring is found in a hundredth of a selector's time.
        return page.query_selector_all(selector) if any(hint in lowered for hint in hints) else ()

    for wrapper in found(_WRAPPERS, "katex", "mwe-math", "mjx-"):
        _replace_wrapper(tree, wrapper)
    # Before the rendered ones go: a script may lie inside.
    for script in found(_SCRIPTS, "math/tex"):
        _replace(tree, script, script.text, displayed="mode=display" in script.getattr("type"))
    for rendered in found(_RENDERED, "mathjax", "mjx_"):
        _remove(rendered)
    for math in found("math", "<math"):
        _replace(tree, math, _tex_of(math), displayed=math.getattr("display") == "block")
    for picture in found(_PICTURES, "latex", "mwe-math", 'class="tex"', "class='tex'"):
        alternative = picture.getattr("alt") or ""
        _replace(tree, picture, alternative, displayed="display" in (picture.getattr("class") or ""))
    # Inner ones first: 2<sup>3<sup>4</sup></sup>.
    for element in reversed(found("sup, sub", "<sup", "<sub")):
        _replace_script(tree, element)


def _replace_wrapper(tree: HTMLTree, wrapper: Any) -> None:
    math = wrapper.query_selector("math")
    if math is None:
        return
    classes = wrapper.getattr("class") or ""
    displayed = "display" in classes or math.getattr("display") == "block" or wrapper.getattr("display") == "true"
    _replace(tree, wrapper, _tex_of(math), displayed=displayed)


def _tex_of(math: Any) -> str:
    """TeX the page gives for a formula, or what its markup amounts to."""
    annotation = math.query_selector(_ANNOTATION)
    if annotation is not None and annotation.text.strip():
        return str(annotation.text)
    alternative = math.getattr("alttext") or ""
    # Elsewhere it is words for people who hear the page.
    return alternative if "\\" in alternative else mathml.to_latex(math)


def _replace(tree: HTMLTree, element: Any, tex: str, *, displayed: bool) -> None:
    """An element gives way to its formula; to nothing where the formula is empty."""
    if element.parent is None:
        return  # it lay in one that was replaced
    tex = _plain(tex)
    if tex:
        marks = "$$" if displayed else "$"
        element.parent.insert_before(tree.create_text_node(f"{marks}{tex}{marks}"), element)
    _remove(element)


def _plain(tex: str) -> str:
    """Without the page's own delimiters, Wikipedia's style and line breaks."""
    tex = " ".join(tex.split()).removeprefix("% <![CDATA[").removesuffix("%]]>").strip()
    for first, last in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(tex) > len(first + last) and tex.startswith(first) and tex.endswith(last):
            tex = tex[len(first) : -len(last)].strip()
    found = _STYLE.match(tex)
    return found[1].strip() if found else tex


def _remove(element: Any) -> None:
    if element.parent is not None:
        element.parent.remove_child(element)


def _replace_script(tree: HTMLTree, element: Any) -> None:
    text = element.text.strip()
    before = element.prev
    follows = before is not None and _BEFORE_SCRIPT.search(before.text or "") is not None
    if element.parent is None or not follows or not _SCRIPT.fullmatch(text) or element.query_selector("a") is not None:
        return
    mark = "^" if element.tag == "sup" else "_"
    script = text.replace("−", "-")
    script = script if len(script) == 1 else f"{{{script}}}"
    element.parent.insert_before(tree.create_text_node(f"{mark}{script}"), element)
    _remove(element)
