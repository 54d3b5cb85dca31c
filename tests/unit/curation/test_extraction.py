import pytest
import raw_corpora
from datatrove.data import Document

from megatron_octo.curation.config import Extractor
from megatron_octo.curation.raw.extraction import Extract, text_of
from megatron_octo.curation.raw.reading import Page

KATEX = (
    '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>x</mi></mrow>'
    '<annotation encoding="application/x-tex">x_1 \\le y</annotation></semantics></math></span>'
    '<span class="katex-html" aria-hidden="true"><span>x</span><span>1</span></span></span>'
)
WIKIPEDIA = (
    '<span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none;"><math alttext="{\\displaystyle z^{2}}">'
    '<semantics><mi>z</mi><annotation encoding="application/x-tex">{\\displaystyle z^{2}}</annotation></semantics></math></span>'
    '<img class="mwe-math-fallback-image-inline" alt="{\\displaystyle z^{2}}" src="z.svg"></span>'
)
MATHJAX_2 = (
    '<span class="MathJax_Preview">[a2]</span><div class="MathJax_Display"><span class="MathJax">a2+b2</span></div>'
    '<script type="math/tex; mode=display">a^2+b^2 < c</script>'
)
MATHJAX_3 = (
    '<mjx-container display="true"><mjx-math>rendered</mjx-math><mjx-assistive-mml><math display="block"><msup><mi>e</mi><mi>x</mi></msup>'
    "</math></mjx-assistive-mml></mjx-container>"
)


@pytest.mark.parametrize("extractor", Extractor)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (r"Inline \(\pi r^2\) stays.", r"Inline \(\pi r^2\) stays."),
        (r"Display $$x < y$$ stays.", "Display $$x < y$$ stays."),
        (f"KaTeX {KATEX} once.", r"KaTeX $x_1 \le y$ once."),
        (f"Wikipedia {WIKIPEDIA} once.", "Wikipedia $z^{2}$ once."),
        (f"MathJax {MATHJAX_2} once.", "$$a^2+b^2 < c$$"),
        (f"MathJax {MATHJAX_3} once.", "MathJax $$e^x$$ once."),
        ('LaTeXML <math alttext="\\frac{a}{b}"><mi>a</mi></math> too.', r"LaTeXML $\frac{a}{b}$ too."),
        (
            "Spoken <math alttext='a over b'><mfrac><mi>a</mi><mi>b</mi></mfrac></math> not.",
            r"Spoken $\frac{a}{b}$ not.",
        ),
        ('WordPress <img class="latex" alt="E=mc^2" src="l.php"> too.', "WordPress $E=mc^2$ too."),
        ('Forum <img src="https://latex.codecogs.com/gif.latex?q" alt="$q_0$"> too.', "Forum $q_0$ too."),
        ("About 10<sup>6</sup> atoms of H<sub>2</sub>O.", "About 10^6 atoms of H_2O."),
        ("x<sup>n-1</sup> on the 1<sup>st</sup> day<sup><a href='#f'>3</a></sup>.", "x^{n-1} on the 1st"),
        ("It is 2<sup>3<sup>4</sup></sup>.", "It is 2^{3^4}."),
    ],
)
def test_formulas_are_kept(extractor: Extractor, body: str, expected: str) -> None:
    text = text_of(raw_corpora.page(f"<p>{body}</p>"), extractor)
    assert expected in text
    for twice in ("[a2]", "a2+b2", "rendered", "displaystyle"):
        assert twice not in text


@pytest.mark.parametrize("extractor", Extractor)
def test_boilerplate_goes_and_prose_stays(extractor: Extractor) -> None:
    text = text_of(raw_corpora.page("<p>And so on.</p>"), extractor)
    assert raw_corpora.PROSE in text
    assert "Home" not in text


def test_only_pages_are_extracted() -> None:
    pages = Extract(Extractor.RESILIPARSE)
    text = Document(text="a <b> c", id="1")
    assert pages.filter(text) is True
    assert text.text == "a <b> c"


def test_pages_without_text_and_huge_ones_are_dropped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Extract(Extractor.RESILIPARSE)
    assert pages.filter(Page(text="<html><script>x</script></html>", id="1")) == (False, "no_text")
    monkeypatch.setattr("megatron_octo.curation.raw.extraction.MAX_CHARACTERS", 100)
    assert pages.filter(Page(text=raw_corpora.page(""), id="2")) == (False, "too_large")
