"""A conversion that gets SIGKILL: `killed_conversion.py CONFIG.json OUT MOMENT NUMBER`.

MOMENT is an output file: between two of its tensors, once NUMBER other files are finished. Or it is `publish`: when NUMBER files
have been moved to where they are looked for.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from megatron_octo import process
from megatron_octo.conversion import copying, run
from megatron_octo.conversion.config import Conversion


def kill_in_file(name: str, finished: int) -> None:
    original = copying._copy_block
    seen: set[int] = set()

    def copy_block(sources: Any, descriptor: int, offset: int, *what: Any) -> int:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if place.name == name:
            seen.add(offset)
        if len(seen) > 1:
            while len(list(place.parent.glob("*.done"))) < finished:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(sources, descriptor, offset, *what)

    copying._copy_block = copy_block


def kill_while_publishing(moved: int) -> None:
    original = os.replace
    done: list[Path] = []

    def replace(source: Path, destination: Path) -> None:
        moves = source.parent.name == run.PARTIAL and destination.parent != source.parent
        if moves and len(done) == moved:
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, destination)
        if moves:
            done.append(destination)

    os.replace = replace


if __name__ == "__main__":
    number, moment = int(sys.argv.pop()), sys.argv.pop()
    kill_while_publishing(number) if moment == "publish" else kill_in_file(moment, number)
    raise SystemExit(process.main(run.run, Conversion))
