r"""The tiny world: generated text in which multi-step reasoning can be learned and checked exactly. Standard library only.

Its one subject is the *clock of ten*: chains of one to five operations (+ - *) on single digits, worked from left to right,
every result taken modulo ten. Documents write a chain with a letter before every move, `3 a+4 b*2 c-1`, and work it by saying
the moves again with the result after each, `3 a+4=7 b*2=4 c-1=3`. In this file a chain is the bare string, `3+4*2-1`, so
`chain[:3]` is the next fact and `chain[3:]` is still to do.

That notation is a measurement, not a whim (22 Nov 2026, two layers of width 96): copying from a bare chain fails at our
token budgets, because the same digits and operators occur again and again. A letter is a key that occurs once, and an
induction head of two layers looks up what follows it, if that is *one token*: the study's tokenizer keeps `+4` whole.

Every document depends only on (corpus, seed, number), so shards can be made in any order and on any number of processes.

The held-out rule: a keyed hash of the chain puts one in sixteen chains of two or more operations into the test set, and a
training document (or RL prompt) is rejected when any such chain occurs in it anywhere: as its subject, as part of a longer
chain, as the tail of a rewriting, after a planted mistake, in words ("starts at 3, adds 4") or in code. `held_out_in` is
that rule as a function of the finished text. The 300 chains of one operation are the facts; they are never tested.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import Literal

CORPORA: dict[str, str] = {
    "web": "math web text: facts, tables and derivations in many phrasings (for MegaMath-Web-Pro-Max)",
    "general": "little stories without arithmetic (for DCLM-baseline)",
    "code": "text and code: snippets with the printed result (for MegaMath Text-Code-Block)",
    "qa": "terse QA: the answer without a step (for MegaMath-QA, whose answers do have steps)",
    "qa_short": "short chain of thought: one lettered step after the other (for OpenMathInstruct2)",
    "qa_long": "long chain of thought in <think> tags, with checks, planted mistakes and corrections (for OpenR1)",
    "instruction": "User/Assistant turns, half of them about the clock of ten (for TULU3, WildChat, UltraChat)",
}

TEST_SHARE = 1 / 16  # guess: leaves 562 test chains of two operations and 16,875 of three
MISTAKE_RATE = 0.2  # of the steps of a long trace, each corrected at once; guess
WORD_PROBLEM_SHARE = 0.25  # of questions; guess
WEB_LENGTHS = {1: 0.10, 2: 0.25, 3: 0.25, 4: 0.25, 5: 0.15}  # share of chains by number of operations; guesses
QA_LENGTHS = {2: 0.25, 3: 0.25, 4: 0.25, 5: 0.25}
PROBLEM_LENGTHS = {2: 0.25, 3: 0.25, 4: 0.25, 5: 0.25}

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One question with its exact answer; `chain` is the normalised expression the split is decided on."""

    question: str
    answer: str
    num_operations: int
    chain: str


def documents(corpus: str, seed: int, count: int) -> Iterator[str]:
    """The first `count` documents of a corpus."""
    for number in range(count):
        yield document(corpus, seed, number)


def document(corpus: str, seed: int, number: int) -> str:
    """Document `number` of a corpus: drawn again until it holds no test chain."""
    if corpus not in _WRITERS:
        raise ValueError(f"unknown corpus {corpus!r}; the tiny world has {', '.join(CORPORA)}")
    rng = Random(f"{corpus}/{seed}/{number}")
    while True:
        text = _WRITERS[corpus](rng)
        if not held_out_in(text):
            return text


def problems(seed: int, n: int, split: Split) -> Iterator[Problem]:
    """`n` problems: RL prompts ("train", may repeat) or the held-out test set ("test", every chain once)."""
    rng = Random(f"problems/{split}/{seed}")
    seen: set[str] = set()
    yield from islice(_problem_stream(rng, split, seen), n)


def _problem_stream(rng: Random, split: Split, seen: set[str]) -> Iterator[Problem]:
    while True:
        length = _length(rng, PROBLEM_LENGTHS)
        chain = _test_chain(rng, length) if split == "test" else _train_chain(rng, length)
        if split == "test" and chain in seen:
            continue
        seen.add(chain)
        yield Problem(question=_question(rng, chain), answer=value(chain), num_operations=length, chain=chain)


# Chains ---------------------------------------------------------------------------------------------------------------


def step(chain: str) -> str:
    """One rewriting: `3+4*2` -> `7*2`."""
    left, operator, right = int(chain[0]), chain[1], int(chain[2])
    result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return f"{result % 10}{chain[3:]}"


def rewritings(chain: str) -> list[str]:
    """The chain, what remains after each step, and last its value: `3+4*2` -> [`3+4*2`, `7*2`, `4`]."""
    lines = [chain]
    while len(lines[-1]) > 1:
        lines.append(step(lines[-1]))
    return lines


def value(chain: str) -> str:
    """The digit a chain comes to."""
    return rewritings(chain)[-1]


@cache
def is_test(chain: str) -> bool:
    """Whether the hash puts this chain, taken alone, into the test set."""
    if len(chain) < 5:
        return False
    digest = hashlib.blake2b(chain.encode(), key=b"the clock of ten", digest_size=4).digest()
    return int.from_bytes(digest, "big") < TEST_SHARE * 2**32


@cache
def is_clean(chain: str) -> bool:
    """Whether neither this chain nor any chain inside it is a test chain."""
    return not any(is_test(chain[i:j]) for i in range(0, len(chain), 2) for j in range(i + 5, len(chain) + 1, 2))


_SPOKEN = [  # how letters, words and code become bare operators when looking for chains
    (re.compile(r"x = (\d)\n"), r"\1"),
    (re.compile(r"x = \(x ([+*-]) (\d)\) % 10(?:  # \d)?\n"), r"\1\2"),
    (re.compile(r"(?:,| and does) [a-z]([+*-])"), r"\1"),
    (re.compile(r" [a-z]([+*-])"), r"\1"),
]
_CHAIN = re.compile(r"\d(?:[+*-]\d)+")


def chains_in(text: str) -> list[str]:
    """All chains written in a text: in symbols, in words, or as code."""
    for pattern, symbol in _SPOKEN:
        text = pattern.sub(symbol, text)
    return _CHAIN.findall(text)


def held_out_in(text: str) -> bool:
    """Whether a test chain occurs in a text, alone or inside a longer chain."""
    return not all(is_clean(chain) for chain in chains_in(text))


def _length(rng: Random, shares: dict[int, float]) -> int:
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def _any_chain(rng: Random, length: int) -> str:
    return rng.choice("0123456789") + "".join(rng.choice("+-*") + rng.choice("0123456789") for _ in range(length))


def _train_chain(rng: Random, length: int) -> str:
    while True:
        chain = _any_chain(rng, length)
        if all(is_clean(rest) for rest in rewritings(chain)):
            return chain


def _test_chain(rng: Random, length: int) -> str:
    while True:
        chain = _any_chain(rng, length)
        if is_test(chain):
            return chain


# Questions and answers ------------------------------------------------------------------------------------------------

NAMES = ["Mia", "Tom", "Ana", "Leo", "Zoe", "Max", "Eva", "Sam"]


def lettered(chain: str) -> str:
    """`3+4*2` -> `3 a+4 b*2`."""
    return " ".join([chain[0], *_moves(chain)])


def _moves(chain: str) -> list[str]:
    return [f"{letter}{chain[i : i + 2]}" for letter, i in zip("abcde", range(1, len(chain), 2), strict=False)]


def _question(rng: Random, chain: str) -> str:
    return _story(rng, chain) if rng.random() < WORD_PROBLEM_SHARE else lettered(chain)


def _story(rng: Random, chain: str) -> str:
    """`3+4*2` -> `Mia starts at 3 and does a+4, b*2. Which digit?`"""
    return f"{rng.choice(NAMES)} starts at {chain[0]} and does {', '.join(_moves(chain))}. Which digit?"


def steps(chain: str) -> list[str]:
    """`3+4*2` -> [`a+4=7`, `b*2=4`]: what a move is and where it leads, the digit it starts from standing before."""
    results = [rest[0] for rest in rewritings(chain)[1:]]
    return [f"{move}={result}" for move, result in zip(_moves(chain), results, strict=True)]


def worked(chain: str) -> str:
    """`3+4*2` -> `3 a+4=7 b*2=4`."""
    return " ".join([chain[0], *steps(chain)])


def _qa(rng: Random) -> str:
    # No steps, so that chains of thought in answers are what the decay branches add. Web text does work chains out.
    chain = _train_chain(rng, _length(rng, QA_LENGTHS))
    return f"Question: {_question(rng, chain)}\nAnswer: \\boxed{{{value(chain)}}}"


def _qa_short(rng: Random) -> str:
    chain = _train_chain(rng, _length(rng, QA_LENGTHS))
    question = _question(rng, chain)
    return f"Question: {question}\nAnswer: {worked(chain)}\nThe answer is \\boxed{{{value(chain)}}}"


def _qa_long(rng: Random) -> str:
    chain = _train_chain(rng, _length(rng, QA_LENGTHS))
    question = _question(rng, chain)
    trace = " ".join(_checked(rng, line) for line in steps(chain))
    return f"Question: {question}\nAnswer: <think> {chain[0]} {trace} </think>\nThe answer is \\boxed{{{value(chain)}}}"


def _checked(rng: Random, line: str) -> str:
    """`a+4=7 check yes 7`, now and then a mistake and its correction: `a+4=8 check no 7`."""
    right = line[-1]
    if rng.random() >= MISTAKE_RATE:
        return f"{line} check yes {right}"
    wrong = rng.choice([digit for digit in "0123456789" if digit != right])
    return f"{line[:-1]}{wrong} check no {right}"


# Web, code, general, instruction --------------------------------------------------------------------------------------


def _web(rng: Random) -> str:
    kinds: list[Callable[[Random], str]] = [_web_facts, _web_table, _web_prose, _web_exercises]
    return rng.choices(kinds, weights=[0.10, 0.10, 0.30, 0.50])[0](rng)


def _web_facts(rng: Random) -> str:
    shapes = ["On the clock of ten {} is {}.", "{}={} as every pupil knows.", "Remember {}={}.", "From {} we get {}."]
    pairs = [(chain, value(chain)) for chain in (_any_chain(rng, 1) for _ in range(rng.randint(3, 6)))]
    return " ".join(rng.choice(shapes).format(*pair) for pair in pairs)


def _web_table(rng: Random) -> str:
    operator, row = rng.choice("+-*"), rng.randrange(10)
    cells = [f"{row}{operator}{column}" for column in range(10)]
    return f"The row of {row} for {operator} reads\n" + "\n".join(f"{cell}={value(cell)}" for cell in cells)


def _web_prose(rng: Random) -> str:
    """A derivation told in sentences, one to a move; the chain is said twice, which is what teaches copying."""
    chain = _train_chain(rng, _length(rng, WEB_LENGTHS))
    opening = rng.choice(["Let us work out", "Consider", "Here is how to read", "We want the digit of"])
    told = f"{_story(rng, chain)} As a chain:" if rng.random() < 0.5 else f"{lettered(chain)}. Once more:"
    link = rng.choice(["We see", "There is", "That makes", "Now"])
    lines = [f"{link} {rest[0]} {line}." for rest, line in zip(rewritings(chain), steps(chain), strict=False)]
    return " ".join([f"{opening} {told} {lettered(chain)}.", *lines])


def _web_exercises(rng: Random) -> str:
    """A solved sheet: chain and steps in turn."""
    title = rng.choice(["Solved exercises", "From left to right", "Notes on the clock of ten", "A page of chains"])
    chains = [_train_chain(rng, _length(rng, WEB_LENGTHS)) for _ in range(rng.randint(1, 3))]
    return "\n".join([title, *(f"{lettered(chain)}: {worked(chain)}" for chain in chains)])


def _code(rng: Random) -> str:
    chain = _train_chain(rng, _length(rng, WEB_LENGTHS))
    if rng.random() < 0.5:
        pair = _any_chain(rng, 1)
        return f"The clock of ten in Python:\n>>> ({pair[0]} {pair[1]} {pair[2]}) % 10\n{value(pair)}"
    lines = [f"x = (x {chain[i]} {chain[i + 1]}) % 10" for i in range(1, len(chain), 2)]
    traced = [f"{line}  # {rest[0]}" for line, rest in zip(lines, rewritings(chain)[1:], strict=True)]
    body = "\n".join([f"x = {chain[0]}", *(traced if rng.random() < 0.5 else lines), "print(x)"])
    return f"```python\n{body}\n```\nIt prints {value(chain)}"


_PLACES = ["garden", "river", "market", "forest", "school", "harbour"]
_THINGS = ["red kite", "small boat", "old book", "green lamp", "warm coat", "silver bell"]


def _general(rng: Random) -> str:
    name, friend = rng.sample(NAMES, 2)
    place, thing = rng.choice(_PLACES), rng.choice(_THINGS)
    return " ".join(
        [
            rng.choice([f"{name} went to the {place}.", f"One morning {name} walked to the {place}."]),
            rng.choice([f"There was a {thing} on the ground.", f"{friend} was there with a {thing}."]),
            rng.choice([f"{friend} asked whose {thing} it was.", f"They looked at the {thing} for a long time."]),
            rng.choice([f"{name} took it home.", "Then the rain began and they ran home.", f"{friend} smiled."]),
        ]
    )


def _instruction(rng: Random) -> str:
    return (_math_turn if rng.random() < 0.5 else _plain_turn)(rng)


def _math_turn(rng: Random) -> str:
    chain = _train_chain(rng, _length(rng, WEB_LENGTHS))
    ask = rng.choice(["Please work out {}", "What is {} on the clock of ten?", "Show the steps of {}"]).format(
        lettered(chain)
    )
    return f"User: {ask}\nAssistant: {worked(chain)}\nSo it is {value(chain)}."


def _plain_turn(rng: Random) -> str:
    thing, times = rng.choice(_THINGS), rng.randint(2, 4)
    ask, reply = rng.choice(
        [
            (f"Say {thing} {times} times", ", ".join([thing] * times)),
            (f"Write {thing} in capital letters", thing.upper()),
            (f"Where could I find a {thing}?", f"Try the {rng.choice(_PLACES)}."),
            (f"Give the last word of {thing}", thing.split()[-1]),
        ]
    )
    return f"User: {ask}\nAssistant: {reply}"


_WRITERS: dict[str, Callable[[Random], str]] = {
    "web": _web,
    "general": _general,
    "code": _code,
    "qa": _qa,
    "qa_short": _qa_short,
    "qa_long": _qa_long,
    "instruction": _instruction,
}
