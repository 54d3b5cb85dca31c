"""Links between pairs of nodes and within nodes: who is measured with whom, and whose fault the slow ones are. Pure."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

#: Rounds of pairs: all pairs up to 16 nodes, of more a sample in which every node meets 15 others.
MAX_ROUNDS = 15
#: Bytes/s that a GPU sends over NVLink, by a part of its name: half of what NVIDIA's data sheets print, which is both directions (H100 and
#: H200: 900 GB/s). Boards whose cards are joined by bridges, if at all, are not listed.
NVLINK_BYTES_PER_SECOND = {"H100": 450e9, "H200": 450e9, "A100-SXM": 300e9, "B200": 900e9}
BRIDGED = ("PCIe", "NVL")


@dataclass(frozen=True, kw_only=True)
class Link:
    """A pair of nodes, or one node's ranks among themselves."""

    #: By number.
    nodes: tuple[int, ...]
    bytes_per_second: float
    trouble: str | None = None


def rounds(num_nodes: int) -> list[list[tuple[int, int]]]:
    """Pairs of nodes such that every node is in one pair of a round: the round-robin of tournaments, at most `MAX_ROUNDS`.

    >>> rounds(4)
    [[(0, 3), (1, 2)], [(0, 2), (1, 3)], [(0, 1), (2, 3)]]
    """
    even = num_nodes + num_nodes % 2
    circle = list(range(1, even))
    found = []
    for _ in range(min(even - 1, MAX_ROUNDS)):
        seats = [0, *circle]
        pairs = zip(seats[: even // 2], reversed(seats[even // 2 :]), strict=True)
        found.append([(min(pair), max(pair)) for pair in pairs if max(pair) < num_nodes])
        circle = [circle[-1], *circle[:-1]]
    return [pairs for pairs in found if pairs]


def usual_speed(links: Sequence[Link], num_nodes: int) -> float:
    """The middle of the nodes' best links: of three pairs a slow node spoils two."""
    best = (
        max((link.bytes_per_second for link in links if node in link.nodes), default=0.0) for node in range(num_nodes)
    )
    return statistics.median(best)


def within_nodes(links: Sequence[Link]) -> list[Link]:
    return [link for link in links if len(link.nodes) == 1]


def between_nodes(links: Sequence[Link]) -> list[Link]:
    return [link for link in links if len(link.nodes) > 1]


def slower_than_others(within: Sequence[Link], share: float) -> list[Link]:
    """Of the links within nodes those below this share of the middle of the others, or broken. A single one has no others."""
    found = []
    for link in within:
        others = [other.bytes_per_second for other in within if other is not link]
        if link.trouble or (others and link.bytes_per_second < share * statistics.median(others)):
            found.append(link)
    return found


def nvlink_bytes_per_second(gpu: str) -> float | None:
    """What the GPU of this name sends over NVLink, by its data sheet; None where that is not known."""
    if any(board in gpu for board in BRIDGED):
        return None
    return next((rate for name, rate in NVLINK_BYTES_PER_SECOND.items() if name in gpu), None)


def slow_nodes(slow: Sequence[Link]) -> list[int]:
    """The nodes that slow links have in common: those with most of them, then of the links that are left, and so on.

    Where all have equally many, such as the two of a single slow link, nobody can tell.
    """
    left, named = list(slow), list[int]()
    while left:
        counts = Counter(node for link in left for node in link.nodes)
        most = [node for node, times in counts.items() if times == max(counts.values())]
        if len(most) == len(counts):
            break
        named += most
        left = [link for link in left if not set(most) & set(link.nodes)]
    return named
