"""What test_checkpoint.py runs in each rank: a tiny model, steps on made-up gradients, saves and loads. No data, no loop.

Used as the prelude of a run, which ends with it and runs no phase.
"""

import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import tiny_training as tiny


def run(argument: dict[str, Any]) -> None:
    """Do `argument["script"]`, a list of [verb, options], in this rank, and leave."""
    code = 0
    try:
        driver = Driver(**argument["driver"])
        for verb, options in argument["script"]:
            getattr(driver, verb)(**options)
    except BaseException as error:  # noqa: BLE001  the test reads it in the log
        traceback.print_exc()
        print(f"ENDED {type(error).__name__}: {error}")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Driver:
    """One rank. Its methods are the verbs of a script."""

    def __init__(
        self,
        *,
        out: str,
        keep: int = 10,
        keep_every: int | None = None,
        asynchronous: bool = True,
        num_layers: int = 4,  # enough for virtual stages
        **layout: Any,
    ) -> None:
        from megatron_octo.training import megatron
        from megatron_octo.training.checkpoint import Progress
        from megatron_octo.training.parallelism import Parallelism
        from megatron_octo.training.saving import Saver

        recipe = tiny.phase("driven", steps=100)
        recipe = dataclasses.replace(
            recipe,
            parallelism=Parallelism(**layout),
            model=dataclasses.replace(recipe.model, num_layers=num_layers),
        )
        self.rank = megatron.initialize(recipe.parallelism, recipe.seed).rank
        self.model, self.optimizer = megatron.build(recipe)
        # Many norms: `common.pt` is to be larger than the limit of `limit_file_size`.
        self.progress = Progress(recent_grad_norms=[0.5] * 2000)
        self.out = Path(out)
        self.saver = Saver(
            self.out, model=self.model, optimizer=self.optimizer, keep=keep, keep_every=keep_every,
            asynchronous=asynchronous, on_saved=self._say, on_failure=self._say,
        )  # fmt: skip

    def _say(self, what: Any) -> None:
        print("SAID", json.dumps(what if isinstance(what, str) else dataclasses.asdict(what)), flush=True)

    def steps(self, count: int, poll: bool = True) -> None:
        """Steps on gradients that differ between parameters and steps and are the same at every layout."""
        from megatron_octo.training import megatron

        for _ in range(count):
            for chunk in self.model:
                for name, parameter in chunk.named_parameters():
                    kind = sum(map(ord, name.rpartition("layers.")[2].lstrip("0123456789")))
                    parameter.main_grad.fill_((kind % 7 + 1) * (1 + self.progress.step % 3) * 1e-3)
            megatron.set_learning_rate(self.optimizer, 1e-2, 0.1)
            megatron.step(self.optimizer, lambda norm: None)
            self.progress.step += 1
            self.progress.recent_grad_norms.append(self.progress.step / 3)
            if poll:
                self.saver.poll()

    def start(self) -> None:
        self.saver.start(self.progress)

    def finish(self) -> None:
        self.saver.finish()

    def load(self, step: int, out: str | None = None) -> None:
        from megatron_octo.training import checkpoint

        source = checkpoint.at_step(Path(out) if out is not None else self.out, step)
        self.progress = checkpoint.load(source, model=self.model, optimizer=self.optimizer)

    def leave_step_shared(self) -> None:
        """Load without the third mend of torch's AdamW."""
        from megatron_octo.training import torch_adam

        torch_adam.finish_load = lambda optimizers: None

    def say_adam_steps(self) -> None:
        from megatron_octo.training import megatron

        inner = [part.optimizer for part in megatron.inner_optimizers(self.optimizer)]
        self._say(f"adam steps {sorted({float(s['step']) for adam in inner for s in adam.state.values()})}")

    def signal_writer(self, name: str, rank: int | None = None) -> None:
        """Stop, continue or kill this rank's writer process."""
        if rank is None or rank == self.rank:
            (writer,) = multiprocessing.active_children()
            assert writer.pid is not None
            os.kill(writer.pid, getattr(signal, name))

    def say_processes(self) -> None:
        """The process ids of everything this rank started, of any kind."""
        import psutil

        self._say(f"processes {[child.pid for child in psutil.Process().children(recursive=True)]}")

    def limit_file_size(self, rank: int) -> None:
        """From now on that rank cannot write files over 10,000 bytes: EFBIG, as a quota gives EDQUOT."""
        if rank == self.rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    def fill_disk(self, leave: int) -> None:
        """Fill the file system of the stage but for `leave` bytes; called again, it makes room or takes more."""
        from megatron_octo.training import megatron

        if self.rank == 0:
            filler = self.out / "filler"
            filler.unlink(missing_ok=True)
            room = os.statvfs(self.out)
            with filler.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, room.f_bavail * room.f_bsize - leave)

        megatron.barrier()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
