"""A conversion that gets SIGKILL: `killed_conversion.py CONFIG.json OUT MOMENT NUMBER`.

MOMENT is an output file: between two of its blocks, once NUMBER other files are finished. Or it is `publish`: when NUMBER files
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
from megatron_octo.conversion.plan import OutputFile


def kill_in_file(name: str, finished: int) -> None:
    original = copying._Maker._copy_block
    seen: set[int] = set()

    def copy_block(maker: Any, file: OutputFile, target: Any, buffer: Any, start: int, size: int) -> None:
        if file.name == name:
            seen.add(start)
        if len(seen) > 1:
            while len(list(maker._directory.glob("*.done"))) < finished:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        original(maker, file, target, buffer, start, size)

    copying.BLOCK_BYTES = 4096
    copying._Maker._copy_block = copy_block


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
