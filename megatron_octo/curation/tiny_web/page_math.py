r"""Generated pages of mathematics: short worked problems with LaTeX between `\(` and `\)`. Standard library only.

Formulas keep to what `page_markup.py` can also write as MathML: numbers, letters, signs, `^{}`, `\frac`, `\sqrt` and a few names.
"""

import math
from collections.abc import Callable
from random import Random

#: Paragraphs of one worked problem.
Paragraphs = list[str]


def problem(rng: Random) -> Paragraphs:
    """One worked problem of any kind."""
    return rng.choice(_PROBLEMS)(rng)


def _signed(value: int) -> str:
    """`3 -> '+ 3'`, `-3 -> '- 3'`."""
    return f"{'-' if value < 0 else '+'} {abs(value)}"


def _quadratic(rng: Random) -> Paragraphs:
    low, high = sorted(rng.sample(range(-60, 60), 2))
    b, c = -(low + high), low * high
    root = high - low
    return [
        rng.choice(
            [
                "Let us solve the quadratic equation",
                "We look for all real numbers with",
                "As a further exercise, find both solutions of",
                "A parabola crosses the axis where",
            ]
        )
        + rf" \(x^{{2}} {_signed(b)} x {_signed(c)} = 0\).",
        rng.choice(["Its discriminant is", "The number under the root comes to", "First the discriminant:"])
        + rf" \(D = {b * b} {_signed(-4 * c)} = {root * root}\)"
        + rng.choice(
            [
                f", whose square root is {root}.",
                f", the square of {root}.",
                f", so that there are two roots {root} apart.",
            ]
        ),
        rng.choice(["The formula then gives", "Therefore", "Hence we obtain"])
        + rf" \(x = \frac{{{-b} \pm {root}}}{{2}}\), "
        + rng.choice(["that is", "in other words", "which means"])
        + rf" \(x = {high}\) or \(x = {low}\).",
    ]


def _system(rng: Random) -> Paragraphs:
    x, y = rng.randint(-30, 30), rng.randint(-30, 30)
    a, b, c, d = (rng.randint(2, 19) for _ in range(4))
    d += a * d == b * c
    determinant = a * d - b * c
    return [
        rng.choice(
            ["Two lines meet where both equations hold:", "Consider the linear system", "Solve for both unknowns:"]
        )
        + rf" \({a} x + {b} y = {a * x + b * y}\) and \({c} x + {d} y = {c * x + d * y}\).",
        rng.choice(["By Cramer's rule we need the determinant", "The determinant of the coefficients is"])
        + rf" \({a} \cdot {d} - {b} \cdot {c} = {determinant}\), "
        + rng.choice(["which is not zero, so the solution is unique.", "so there is exactly one solution."]),
        rng.choice(["Elimination leads to", "Dividing gives", "Putting the numbers in we find"])
        + rf" \(x = \frac{{{determinant * x}}}{{{determinant}}} = {x}\) and \(y = \frac{{{determinant * y}}}{{{determinant}}} = {y}\).",
    ]


def _derivative(rng: Random) -> Paragraphs:
    a, b, n, at = rng.randint(2, 40), rng.randint(2, 90), rng.randint(3, 7), rng.randint(1, 5)
    slope = a * n * at ** (n - 1) - b
    return [
        rng.choice(["Find the slope of", "Differentiate the function", "We compute the derivative of"])
        + rf" \(f(x) = {a} x^{{{n}}} - {b} x\)"
        + rng.choice([f" at the point {at}.", f", and its value for x equal to {at}."]),
        rng.choice(["Term by term, the power rule yields", "The power rule brings the exponent down:"])
        + rf" \(f'(x) = {a * n} x^{{{n - 1}}} - {b}\).",
        rng.choice(["At the given point this is", "Substituting,"])
        + rf" \(f'({at}) = {a * n} \cdot {at ** (n - 1)} - {b} = {slope}\). "
        + rng.choice(
            [
                "The tangent rises there." if slope > 0 else "The tangent does not rise there.",
                "That completes the computation.",
            ]
        ),
    ]


def _integral(rng: Random) -> Paragraphs:
    a, n, high = rng.randint(2, 30), rng.randint(2, 5), rng.randint(2, 9)
    return [
        rng.choice(["Find the area under the curve", "Let us integrate the power", "How large is the area below"])
        + rf" \(y = {a * (n + 1)} x^{{{n}}}\) "
        + rng.choice([f"between 0 and {high}.", f"from zero to {high}."]),
        rng.choice(["An antiderivative is", "Raising the exponent by one and dividing gives"])
        + rf" \(F(x) = {a} x^{{{n + 1}}}\).",
        rng.choice(["So the integral equals", "By the fundamental theorem the area is"])
        + rf" \(F({high}) - F(0) = {a} \cdot {high ** (n + 1)} = {a * high ** (n + 1)}\).",
    ]


def _series(rng: Random) -> Paragraphs:
    first, step, n = rng.randint(1, 90), rng.randint(2, 30), rng.randint(8, 60)
    last = first + (n - 1) * step
    return [
        rng.choice(["Sum the arithmetic progression", "Add up the numbers", "How much do these terms make together:"])
        + rf" \({first}, {first + step}, {first + 2 * step}\) and so on, {n} terms in all.",
        rng.choice(["The last of them is", "Its final term comes to"])
        + rf" \(a_{{{n}}} = {first} + {n - 1} \cdot {step} = {last}\).",
        rng.choice(
            [
                "Pairing the first with the last, as young Gauss did, gives",
                "The mean of both ends times their number is",
            ]
        )
        + rf" \(S = \frac{{{n} \cdot ({first} + {last})}}{{2}} = {n * (first + last) // 2}\).",
    ]


def _euclid(rng: Random) -> Paragraphs:
    a, b = sorted((rng.randint(200, 5000), rng.randint(40, 1500)), reverse=True)
    lines = []
    x, y = a, b
    while y:
        lines.append(rf"\({x} = {x // y} \cdot {y} + {x % y}\)")
        x, y = y, x % y
    return [
        rng.choice(
            [
                "Euclid's algorithm finds the greatest common divisor of",
                "Work out the largest number that divides both of",
            ]
        )
        + f" {a} and {b}"
        + rng.choice([" by repeated division.", ": divide with remainder, again and again."]),
        rng.choice(["The divisions are ", "Step by step: ", "We write "]) + ", then ".join(lines) + ".",
        rng.choice(["The last divisor is the answer:", "When nothing is left over we may stop, so"])
        + rf" \(\gcd({a}, {b}) = {x}\)"
        + rng.choice([f", and the fraction reduces to {a // x} over {b // x}.", "."]),
    ]


def _urn(rng: Random) -> Paragraphs:
    red, blue = rng.randint(3, 40), rng.randint(3, 40)
    total = red + blue
    ways, all_ways = math.comb(red, 2), math.comb(total, 2)
    return [
        rng.choice(["An urn holds", "In a bag there are", "A box contains"])
        + f" {red} red and {blue} blue "
        + rng.choice(["balls", "marbles", "beads"])
        + rng.choice([". Two are drawn without looking.", ", and we draw two of them together."]),
        rng.choice(["Red pairs:", "The favourable pairs number"])
        + rf" \(\frac{{{red} \cdot {red - 1}}}{{2}} = {ways}\), "
        + rng.choice(["out of", "among"])
        + rf" \(\frac{{{total} \cdot {total - 1}}}{{2}} = {all_ways}\).",
        rng.choice(["The probability that both are red is", "Hence both are red with probability"])
        + rf" \(P = \frac{{{ways}}}{{{all_ways}}}\), about {ways / all_ways:.3f}.",
    ]


def _triangle(rng: Random) -> Paragraphs:
    m, n, k = rng.randint(4, 12), rng.randint(1, 3), rng.randint(1, 9)
    a, b, c = k * (m * m - n * n), 2 * k * m * n, k * (m * m + n * n)
    return [
        rng.choice(["A right triangle has legs of", "The two shorter sides of a right triangle measure"])
        + f" {a} and {b} units.",
        rng.choice(["By the theorem of Pythagoras,", "Squares on the legs add up to the square on the hypotenuse:"])
        + rf" \(c^{{2}} = {a}^{{2}} + {b}^{{2}} = {a * a + b * b}\).",
        rng.choice(["Taking the root,", "The longest side is therefore"])
        + rf" \(c = \sqrt{{{c * c}}} = {c}\), "
        + rng.choice(["and the area is", "while the surface inside amounts to"])
        + rf" \(\frac{{{a} \cdot {b}}}{{2}} = {a * b // 2}\).",
    ]


def _choice(rng: Random) -> Paragraphs:
    a, b, c = rng.randint(12, 99), rng.randint(3, 19), rng.randint(20, 400)
    right = a * b - c
    options = sorted({right, right + rng.randint(1, 9), right - rng.randint(1, 9), a * b + c})
    letter = "ABCD"[options.index(right)]
    return [
        rng.choice(["Multiple choice.", "Test yourself.", "Quiz item."])
        + rf" Evaluate \({a} \cdot {b} - {c}\) without a calculator.",
        " ".join(f"({name}) {option}" for name, option in zip("ABCD", options, strict=False)),
        rng.choice(["Answer:", "Solution:", "Correct choice:"])
        + rf" ({letter}), since \({a} \cdot {b} = {a * b}\) and \({a * b} - {c} = {right}\).",
    ]


def _powers(rng: Random) -> Paragraphs:
    base, exponent, modulus = rng.randint(2, 60), rng.randint(5, 40), rng.randint(7, 200)
    lines, value, power = [], base % modulus, 1
    while power * 2 <= exponent:
        value, power = value * value % modulus, power * 2
        lines.append(rf"\({base}^{{{power}}} \to {value}\)")
    return [
        rng.choice(["Which remainder does", "Compute modulo a number: what does"])
        + rf" \({base}^{{{exponent}}}\) leave when divided by {modulus}?",
        rng.choice(["Squaring repeatedly and reducing every time, ", "We square and keep remainders only: "])
        + ", ".join(lines)
        + ".",
        rng.choice(["Multiplying what the binary digits ask for leaves", "The product of the powers needed leaves"])
        + rf" \({pow(base, exponent, modulus)}\).",
    ]


_PROBLEMS: list[Callable[[Random], Paragraphs]] = [
    _quadratic, _system, _derivative, _integral, _series, _euclid, _urn, _triangle, _choice, _powers,
]  # fmt: skip
