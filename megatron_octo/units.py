"""Token, byte and time arithmetic as people read it. Decimal units: 1 B tokens = 10^9, 1 GB = 10^9 bytes."""

import re
import time

from megatron_octo.errors import ConfigError

K = 1_000
M = 1_000_000
B = 1_000_000_000
T = 1_000_000_000_000

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_BYTES = {
    "": 1, "b": 1, "k": K, "kb": K, "m": M, "mb": M, "g": B, "gb": B, "t": T, "tb": T,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1 << 40,
}  # fmt: skip
_SIZE = re.compile(rf"(?P<number>\d+(\.\d+)?)\s*(?P<unit>{'|'.join(_BYTES)})")


def count(value: float) -> str:
    """A count in K/M/B/T with three significant digits: `209_715_200_000 -> '210B'`, `950 -> '950'`."""
    for size, suffix in ((T, "T"), (B, "B"), (M, "M"), (K, "K")):
        # 999_950 would print as '1e+03K': let the larger unit take it.
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def bytes_(value: float) -> str:
    """A size in decimal units, as disks are sold: `2_470_000_000 -> '2.47 GB'`."""
    for size, suffix in ((T, "TB"), (B, "GB"), (M, "MB"), (K, "kB")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.3g} B"


def counted(number: int, noun: str) -> str:
    """`1 file`, `1,024 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def parse_bytes(text: str) -> int:
    """A size as people write it: `5GB`, `1.5 gb`, `500MB`, `2GiB`, `1000000`. Raises `ConfigError`.

    `5G` is `5GB`, decimal as everything here; what Slurm and du call G is `GiB`.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None or not (size := int(float(found["number"]) * _BYTES[found["unit"]])):
        raise ConfigError(f"'{text}' is no size; write one such as 5GB, 500MB or 2GiB")
    return size


def duration(seconds: float) -> str:
    """`75 -> '1m15s'`, `7384 -> '2h03m'`, `3.21 -> '3.2s'`."""
    if seconds < 59.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def utc(seconds: float) -> str:
    """Seconds since 1970 as `2026-11-22T23:35:44Z`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
