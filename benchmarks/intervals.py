"""How often 95 % intervals hold the truth: percentile bootstrap, Wilson over all samples, and ours, in simulated evaluations.

    python benchmarks/intervals.py [--worlds 4000]

Questions differ in difficulty by a beta distribution; `alike` is the correlation of two samples of one question (1 sample a
question: it makes no difference). The last table is of two models on the same questions. Prints Markdown; exit code 1 where ours
leaves 93.5 to 96.5 %, or only falls below where it is to be careful: samples hardly alike, pass@k, models that hardly differ.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_octo import intervals
from megatron_octo.evaluation import metrics
from megatron_octo.intervals import Array

LEAST, MOST = 0.935, 0.965
SIZES = (40, 200, 1319)
RATES = (0.1, 0.5, 0.9)
#: (samples a question, how much alike they are).
CLUSTERS = ((1, 0.3), (8, 0.05), (8, 0.3), (8, 0.7), (64, 0.3))
#: Samples that are less alike leave ours wider than need be, by design: `intervals.UNSEEN`.
LEAST_ALIKE = 0.3
#: (accuracy, samples a question, k).
PASSES = ((0.1, 64, 16), (0.5, 8, 4), (0.5, 64, 16), (0.5, 256, 64), (0.9, 8, 4), (0.9, 64, 16))
#: Questions that two models are expected to differ on; with fewer, the paired interval may be wider than it need be.
FEW_DIFFERENT = 15
BOOTSTRAP_DRAWS = 1_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    size: int
    rate: float
    samples: int
    alike: float


def settings() -> Iterator[Setting]:
    for samples, alike in CLUSTERS:
        for size in SIZES:
            for rate in RATES:
                yield Setting(size=size, rate=rate, samples=samples, alike=alike)


def worlds(setting: Setting, count: int, generator: np.random.Generator) -> Array:
    """Shares of right samples: (worlds, questions)."""
    return _counts(setting, count, generator) / setting.samples


def passes(setting: Setting, k: int, count: int, generator: np.random.Generator) -> tuple[Array, float]:
    """Chances of pass@k as estimated, (worlds, questions), and their true mean."""
    right, wrong = _difficulty(setting)
    truth = 1 - np.prod([(wrong + drawn) / (right + wrong + drawn) for drawn in range(k)])
    chances = np.array([metrics.pass_at_k(setting.samples, each, k) for each in range(setting.samples + 1)])
    return chances[_counts(setting, count, generator)], float(truth)


def _counts(setting: Setting, count: int, generator: np.random.Generator) -> np.ndarray:
    chances = generator.beta(*_difficulty(setting), size=(count, setting.size))
    return generator.binomial(setting.samples, chances)


def _difficulty(setting: Setting) -> tuple[float, float]:
    more = 1 / setting.alike - 1
    return setting.rate * more, (1 - setting.rate) * more


def ours(shares: Array, setting: Setting) -> Array:
    """(worlds, low and high)."""
    found = [metrics.mean_interval(values, samples_per_question=setting.samples) for values in shares]
    return np.array([(interval.low, interval.high) for interval in found])


def wilson(shares: Array, setting: Setting) -> Array:
    """As if all samples were independent."""
    return np.array([intervals.wilson(mean, setting.size * setting.samples) for mean in shares.mean(axis=1)])


def bootstrap(shares: Array, generator: np.random.Generator) -> Array:
    """Percentiles over resampled questions."""
    size = shares.shape[1]
    weights = generator.multinomial(size, np.full(size, 1 / size), size=BOOTSTRAP_DRAWS) / size
    return np.percentile(shares @ weights.T, [2.5, 97.5], axis=1).T


def coverage(found: Array, truth: float) -> float:
    # 1e-12: an interval that ends at the truth holds it
    return float(((found[:, 0] <= truth + 1e-12) & (truth <= found[:, 1] + 1e-12)).mean())


def pairs(size: int, before: float, after: float, same: float, count: int, generator: np.random.Generator) -> Array:
    """Verdicts (worlds, models, questions, 1); a share `same` of the questions is as hard for one model as for the other."""
    luck = generator.random((2, count, size))
    luck[1] = np.where(generator.random((count, size)) < same, luck[0], luck[1])
    return np.stack([luck[0] < before, luck[1] < after], axis=1)[..., None]


def paired(size: int, before: float, after: float, same: float, count: int, generator: np.random.Generator) -> Sequence:
    """Coverage of the difference, how often p is below 0.05, and the questions that differ."""
    verdicts = pairs(size, before, after, same, count, generator)
    found = [metrics.paired_difference(*world) for world in verdicts]
    covered = coverage(np.array([(each.low, each.high) for each in found]), after - before)
    different = float((verdicts[:, 0] != verdicts[:, 1]).sum() / count)
    return covered, float(np.mean([each.p_value < 0.05 for each in found])), different


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--worlds", type=int, default=4_000)
    count = arguments.parse_args().worlds
    generator = np.random.default_rng(0)
    return (
        1 if [*_print_means(count, generator), *_print_passes(count, generator), *_print_pairs(count, generator)] else 0
    )


def _print_means(count: int, generator: np.random.Generator) -> list[Setting]:
    print(f"One model, {count:,} evaluations a row\n")
    print("| questions | accuracy | samples | alike | bootstrap | Wilson | ours |\n|--:|--:|--:|--:|--:|--:|--:|")
    missed = []
    for setting in settings():
        shares = worlds(setting, count, generator)
        held = coverage(ours(shares, setting), setting.rate)
        others = coverage(bootstrap(shares, generator), setting.rate), coverage(wilson(shares, setting), setting.rate)
        print(
            f"| {setting.size} | {setting.rate} | {setting.samples} | {setting.alike} | "
            f"{_percent(others[0])} | {_percent(others[1])} | {_percent(held)} |"
        )
        if not LEAST <= held <= (MOST if setting.alike >= LEAST_ALIKE else 1):
            missed.append(setting)
    return missed


def _print_passes(count: int, generator: np.random.Generator) -> list[Setting]:
    print(f"\npass@k, samples alike by 0.3, {count:,} evaluations a row\n")
    print("| questions | accuracy | samples | k | pass@k | bootstrap | ours |\n|--:|--:|--:|--:|--:|--:|--:|")
    missed = []
    for size in SIZES:
        for rate, samples, k in PASSES:
            setting = Setting(size=size, rate=rate, samples=samples, alike=0.3)
            chances, truth = passes(setting, k, count, generator)
            held = coverage(ours(chances, setting), truth)
            other = coverage(bootstrap(chances, generator), truth)
            print(f"| {size} | {rate} | {samples} | {k} | {truth:.3f} | {_percent(other)} | {_percent(held)} |")
            if held < LEAST:
                missed.append(setting)
    return missed


def _print_pairs(count: int, generator: np.random.Generator) -> list[str]:
    print(f"\nTwo models, {count:,} evaluations a row\n")
    print("| questions | before | after | same | differ on | ours | p < 0.05 |\n|--:|--:|--:|--:|--:|--:|--:|")
    missed = []
    for size in SIZES:
        for before, after in ((0.5, 0.5), (0.1, 0.2), (0.5, 0.6), (0.85, 0.95)):
            for same in (0.0, 0.5):
                held, significant, different = paired(size, before, after, same, count, generator)
                row = f"| {size} | {before} | {after} | {same} | {different:.0f} | {_percent(held)} | {_percent(significant)} |"
                print(row)
                if not LEAST <= held <= (MOST if different > FEW_DIFFERENT else 1):
                    missed.append(row)
    return missed


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    raise SystemExit(main())
