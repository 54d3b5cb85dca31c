import pytest
from resiliparse.parse.html import HTMLTree

from megatron_octo.curation.raw import mathml


def latex(markup: str) -> str:
    return mathml.to_latex(HTMLTree.parse(f"<math>{markup}</math>").document.query_selector("math"))


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<mfrac><mn>1</mn><mi>x</mi></mfrac>", r"\frac{1}{x}"),
        ("<msup><mi>x</mi><mn>2</mn></msup>", "x^2"),
        ("<msup><mi>x</mi><mn>10</mn></msup>", "x^{10}"),
        ("<msup><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>n</mi></msup>", "{a+b}^n"),
        ("<msubsup><mo>∫</mo><mn>0</mn><mi>&pi;</mi></msubsup><mi>sin</mi><mi>x</mi>", r"\int_0^\pi\sin x"),
        (
            "<munderover><mo>&sum;</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>",
            r"\sum_{i=1}^n",
        ),
        ("<munder><mi>lim</mi><mrow><mi>n</mi><mo>→</mo><mi>∞</mi></mrow></munder>", r"\lim_{n\to\infty}"),
        ("<mover><mi>x</mi><mo>¯</mo></mover><mover><mi>v</mi><mo>→</mo></mover>", r"\bar{x}\vec{v}"),
        ("<mover><mo>=</mo><mtext>def</mtext></mover>", r"\overset{\text{ def }}{=}"),
        ("<msqrt><mi>a</mi><mo>−</mo><mi>b</mi></msqrt>", r"\sqrt{a-b}"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot>", r"\sqrt[3]{x}"),
        ("<mi>α</mi><mo>&InvisibleTimes;</mo><mi>x</mi><mo>≤</mo><mi>Γ</mi>", r"\alpha x\le\Gamma"),
        ("<mi>x</mi><mo>∈</mo><mi>ℝ</mi>", r"x\in\mathbb{R}"),
        ("<mi mathvariant='double-struck'>Z</mi>", r"\mathbb{Z}"),
        ("<mi>𝑥</mi><mo>{</mo><mi>rank</mi>", r"x\{\mathrm{rank}"),
        ("<mfenced open='[' close=')'><mi>a</mi><mi>b</mi></mfenced>", "[a,b)"),
        (
            "<mo>(</mo><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr><mtr><mtd><mn>3</mn></mtd><mtd><mn>4</mn></mtd></mtr>"
            "</mtable><mo>)</mo>",
            r"(\begin{matrix} 1 & 2 \\ 3 & 4 \end{matrix})",
        ),
        (
            "<mmultiscripts><mi>U</mi><mprescripts></mprescripts><mn>92</mn><mn>235</mn></mmultiscripts>",
            "{}_{92}^{235}U",
        ),
        ("<mstyle><mpadded><mn>5</mn></mpadded></mstyle>", "5"),
        # Mistakes of pages: what is there is kept.
        ("<mfrac><mi>a</mi></mfrac>", "a"),
        ("<mi>a</mi>&nbsp;<mo>&lt;</mo><nonsense><mi>b</mi></nonsense>", "a<b"),
        ("", ""),
    ],
)
def test_presentation_markup(markup: str, expected: str) -> None:
    assert latex(markup) == expected


def test_hostile_depth_ends() -> None:
    assert latex("<mrow>" * 400 + "<mi>x</mi>" + "</mrow>" * 400) == "x"
