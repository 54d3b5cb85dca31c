"""Names the rank that hangs, writes what every rank was doing, and ends the run.

A rank that waits for another waits for ever, or until the collectives' timeout, whose message names the wrong one: whoever
waited. So every rank says where it is, and a thread beside it looks whether that changes:

    with Watchdog(timeout_seconds=600, rank=rank, world_size=world_size, store=store, directory=out, say=say) as watchdog:
        watchdog.at(step, "data")

The first rank without a change for `timeout_seconds` raises the alarm through the store of torch.distributed. Each rank then
posts its place there and writes the stacks of its threads to OUT/logs/stacks/rankN.txt, the lowest one that answers says who is
to blame (stderr, OUT/logs/stacks/verdict.txt, OUT/logs/state.json), and all leave with `EXIT_HUNG`.

Three things may be stuck and must not hold up the end. The store: its host may be the rank that is stopped, so a thread of its
own asks it (`Board`). The interpreter lock, when a C call keeps it, and the file system: for these a timer of faulthandler, which
needs neither, writes the stacks to stderr and ends the process with code 1.
"""

import contextlib
import faulthandler
import itertools
import json
import linecache
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in __all__

from megatron_octo import units
from megatron_octo.process import EXIT_HUNG
from megatron_octo.training import state
from megatron_octo.training.state import Reason

#: What a rank does after so many steps, in this order; the first is before the loop and the last after it.
DOING = ("start", "validation", "checkpoint", "data", "forward_backward", "optimizer", "left")
#: Python files whose innermost frame waits for other ranks.
WAITING_FILES = ("torch/distributed/distributed_c10d.py", "torch/distributed/_functional_collectives.py")
#: What a line says that waits for a request or for the device, on which NCCL's collectives are.
WAITING_CALLS = (".wait(", "synchronize(", ".item()", ".tolist()", ".cpu()")
#: Ranks that a message lists one by one.
LISTED = 8

#: Watchdogs of this process so far. Each has keys of its own in the store; all ranks make them in the same order.
_made = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Post:
    """Where one rank is when the alarm comes, or how it left before."""

    rank: int
    host: str
    #: Steps done.
    step: int
    #: One of `DOING`.
    doing: str
    #: Seconds since it last moved.
    still_seconds: float
    #: The main thread's innermost Python frame.
    frame: str
    #: Whether that waits for other ranks.
    waits: bool
    #: The exception it left with; None for those still there and those that were done.
    error: str | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.step, DOING.index(self.doing)

    def __str__(self) -> str:
        who = f"rank {self.rank} on {self.host}"
        if self.error is not None:
            return f"{who} left after step {self.step} with {self.error}"
        return f"{who}: after step {self.step}, {self.doing}, for {units.duration(self.still_seconds)}, at {self.frame}"


class Watchdog:
    """Watches this rank and, with the others' watchdogs, names the one that hangs.

    Args:
        timeout_seconds: longer than any step, compilation or save, shorter than the collectives' timeout.
        store: the default store of the process group.
        directory: the stage directory, OUT.
        say: prints a message for people.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        rank: int,
        world_size: int,
        store: Any,
        directory: Path,
        say: Callable[[str], None],
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._rank = rank
        self._world_size = world_size
        self._directory = directory
        self._stacks = directory / "logs" / "stacks"
        self._claim = self._stacks / ".speaking"
        self._say = say
        # A new object per move: a second visit to the same place is a move too.
        self._position: tuple[int, str] = (0, "start")
        self._still_seconds = 0.0
        self._poll_seconds = min(5.0, max(0.1, timeout_seconds / 20))
        #: What the others have for an answer: they look every `poll_seconds`.
        self._answer_seconds = 3.0 + 2 * self._poll_seconds
        #: Between the message and the end: launchers kill the others once the first rank leaves.
        self._linger_seconds = 1.0 + 2 * self._poll_seconds
        self._closed = False
        self._wake = threading.Event()
        self._board = Board(store, rank=rank, poll_seconds=self._poll_seconds, on_alarm=self._wake.set)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._claim.unlink(missing_ok=True)  # of an earlier run
        self._board.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._closed = True
        self._wake.set()
        # Does not return after an alarm: once ranks leave, collectives of the others fail, and the verdict says more than that.
        self._thread.join()
        left = Post(
            rank=self._rank, host=socket.gethostname(), step=self._position[0], doing="left", still_seconds=0.0, frame="",
            waits=True, error=None if kind is None else f"{kind.__name__}: {error}",
        )  # fmt: skip
        self._board.close(left, timeout_seconds=self._answer_seconds)

    def at(self, step: int, doing: str) -> None:
        """This rank, `step` steps done, begins to do one of `DOING`."""
        assert doing in DOING, doing
        self._position = (step, doing)

    def _watch(self) -> None:
        # The other ranks speak before this and leave after it: the stacks come out, and nobody is killed while speaking.
        last_resort_seconds = self._timeout_seconds + self._answer_seconds + self._linger_seconds - 0.5
        seen, looked_at = self._position, time.monotonic()
        while not self._closed:
            _end_process_after(last_resort_seconds)
            self._wake.wait(self._poll_seconds)
            now, position = time.monotonic(), self._position
            # A process that was stopped for a while, or starved, did not stand still: it was not there.
            elapsed = min(now - looked_at, 2 * self._poll_seconds)
            self._still_seconds = self._still_seconds + elapsed if position is seen else 0.0
            seen, looked_at = position, now
            if self._board.alarmed or self._still_seconds >= self._timeout_seconds:
                self._end()
        faulthandler.cancel_dump_traceback_later()

    def _end(self) -> NoReturn:
        """Tell where this rank is, hear the others, say who is to blame, leave: whatever goes wrong, leave."""
        _end_process_after(self._answer_seconds + self._linger_seconds + 30.0)
        try:
            started = time.monotonic()
            mine = self._look()
            self._board.post(mine)
            self._write_stacks(mine)
            self._judge(deadline=started + self._answer_seconds)
            time.sleep(self._linger_seconds)
        except BaseException:  # noqa: BLE001  this thread's last words
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(EXIT_HUNG)

    def _look(self) -> Post:
        """Where this rank is now."""
        step, doing = self._position
        frame, waits = _main_thread()
        return Post(
            rank=self._rank, host=socket.gethostname(), step=step, doing=doing, still_seconds=self._still_seconds,
            frame=frame, waits=waits,
        )  # fmt: skip

    def _write_stacks(self, mine: Post) -> None:
        # Added to those of earlier tries: a restart does not wipe out the evidence. A full disk keeps nobody from leaving.
        with contextlib.suppress(OSError):
            self._stacks.mkdir(parents=True, exist_ok=True)
            with (self._stacks / f"rank{self._rank}.txt").open("a") as file:
                file.write(f"{units.utc(time.time())} {mine}\n")
                file.flush()
                faulthandler.dump_traceback(file)

    def _judge(self, deadline: float) -> None:
        """Wait for the others' posts; the lowest of those who answer says the verdict, any of them if the store does not."""
        while time.monotonic() < deadline and len(self._board.posts) < self._world_size:
            time.sleep(0.05)
        posts, hosts = self._board.posts, self._board.hosts
        if self._rank not in posts:
            self._speak(_silent_store())
        elif self._rank == min(rank for rank, post in posts.items() if post.doing != "left"):
            silent = sorted(set(range(self._world_size)) - set(posts))
            self._speak(verdict(posts, {rank: hosts.get(rank, "a host unknown") for rank in silent}))

    def _speak(self, text: str) -> None:
        """Say it, unless another rank did: whoever makes the file speaks for all."""
        with contextlib.suppress(OSError):
            self._stacks.mkdir(parents=True, exist_ok=True)
        try:
            self._claim.touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError:
            pass  # a full disk: better twice than never
        text = f"no progress for {units.duration(self._timeout_seconds)}: {text}"
        self._say(f"{text}\nstacks of the ranks: {self._stacks}; all leave with exit code {EXIT_HUNG}")
        with contextlib.suppress(OSError), (self._stacks / "verdict.txt").open("a") as file:
            file.write(f"{units.utc(time.time())} {text}\n")
        state.give_reason(self._directory, Reason.HUNG, text)


class Board:
    """What the ranks tell each other through the store, in a thread that may block there without holding up anybody.

    Keys: `hosts` and `posts`, one JSON line per rank, and `alarm`, which is there or not.
    """

    def __init__(self, store: Any, *, rank: int, poll_seconds: float, on_alarm: Callable[[], None]) -> None:
        # A connection of its own: the main thread may be waiting on the default one.
        self._store: Any = PrefixStore(f"watchdog{next(_made)}", store.clone())  # torch's stubs lack its `append`
        self._rank = rank
        self._poll_seconds = poll_seconds
        self._on_alarm = on_alarm
        #: True from the first alarm on, whichever rank raised it.
        self.alarmed = False
        #: Read after the alarm, by rank; this rank's own is among them once the store took it.
        self.posts: dict[int, Post] = {}
        self.hosts: dict[int, str] = {}
        self._outbox: Post | None = None
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="watchdog store", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, mine: Post) -> None:
        """Raise the alarm, if it is not, and tell the others where this rank is; from now on read what they tell."""
        self._outbox, self.alarmed = mine, True
        self._wake.set()

    def close(self, left: Post, *, timeout_seconds: float) -> None:
        """Tell those who stay that this rank left."""
        self._outbox, self._closing = left, True
        self._wake.set()
        self._thread.join(timeout_seconds)

    def _serve(self) -> None:
        # The rank that holds the store may leave first; then there is nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._store.append("hosts", json.dumps([self._rank, socket.gethostname()]) + "\n")
            while not self._closing:
                self._wake.wait(self._poll_seconds / 2)
                self._wake.clear()
                self._exchange()

    def _exchange(self) -> None:
        if self._outbox is not None:
            mine, self._outbox = self._outbox, None
            self._store.append("posts", json.dumps(asdict(mine)) + "\n")
            if mine.doing == "left":
                return
            self._store.set("alarm", "")
        if self.alarmed:
            self.hosts = dict(self._read("hosts"))
            self.posts = {line["rank"]: Post(**line) for line in self._read("posts")}
        elif self._store.check(["alarm"]):
            self.alarmed = True
            self._on_alarm()

    def _read(self, key: str) -> list[Any]:
        # `get` waits for a key that is not there.
        return [json.loads(line) for line in self._store.get(key).splitlines()] if self._store.check([key]) else []


def verdict(posts: Mapping[int, Post], silent: Mapping[int, str]) -> str:
    """Who is to blame.

    Args:
        posts: of every rank that answered or left before, by rank.
        silent: hosts of the ranks that did not answer.
    """
    if silent:
        what = ", ".join(f"rank {rank} on {host}" for rank, host in list(silent.items())[:LISTED]) + _more(silent)
        return (
            f"{what} {'does' if len(silent) == 1 else 'do'} not answer: stopped, its machine is gone, or a call outside Python "
            "keeps the interpreter lock (then its stacks are on its stderr)"
        )
    if failed := [post for post in posts.values() if post.error is not None]:
        return f"{_list(failed)}; the others wait"
    last = max(post.place for post in posts.values())
    if behind := [post for post in posts.values() if post.place < last]:
        first = min(post.place for post in behind)
        return f"behind the others is {_list([post for post in behind if post.place == first])}"
    busy = [post for post in posts.values() if not post.waits]
    if len(busy) == len(posts) > 1:
        return f"all ranks are at the same place and none waits for another: {_list(busy)}"
    if busy:
        return f"{_list(busy)}" + ("; the others wait for it" if len(posts) > 1 else "")
    return f"all ranks wait for each other: {_list(list(posts.values()))}"


def _list(posts: Sequence[Post]) -> str:
    by_rank = sorted(posts, key=lambda post: post.rank)
    return "; ".join(str(post) for post in by_rank[:LISTED]) + _more(posts)


def _more(ranks: Collection[Any]) -> str:
    return f" and {len(ranks) - LISTED} more" if len(ranks) > LISTED else ""


def _silent_store() -> str:
    host = os.environ.get("MASTER_ADDR", socket.gethostname())
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return f"the store in torchrun's first process on {host} does not answer: that process is stopped, or its machine is gone"
    return f"the store on rank 0 ({host}) does not answer: rank 0 is the one that hangs; it is stopped, or its machine is gone"


def _end_process_after(seconds: float) -> None:
    """The last resort: stacks on stderr and exit code 1, unless called again or cancelled within `seconds`."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)


def _main_thread() -> tuple[str, bool]:
    """The main thread's innermost Python frame, as text, and whether it waits for other ranks."""
    frames = sys._current_frames()
    main = frames[threading.main_thread().ident or 0]
    file, line = main.f_code.co_filename, main.f_lineno
    waits = file.endswith(WAITING_FILES) or any(call in linecache.getline(file, line) for call in WAITING_CALLS)
    if file.endswith("torch/autograd/graph.py"):
        # On GPUs the backward pass runs in threads of autograd's while the main one waits for them.
        waits = any(frame.f_code.co_filename.endswith(WAITING_FILES) for frame in frames.values())
    return f"{'/'.join(Path(file).parts[-3:])}:{line} in {main.f_code.co_name}", waits
