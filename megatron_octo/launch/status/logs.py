"""What a stage says: its newest session's rank 0, live if wanted, and as the last thing the traceback of the rank that failed first.

    LOGS/session-N/rankR.log              what rank R said in session N
    LOGS/task0000R/session-N/rank0.log    of an array: task R
    LOGS/rankR.log                        on this machine, where it did not go to the terminal

Following needs no job to be there yet: it waits for the first session, goes on with the next after a requeue, and ends with the
stage.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.errors import ArtifactError, listed
from megatron_octo.launch.slurm import sessions
from megatron_octo.launch.status import standing, tracebacks
from megatron_octo.launch.status.states import ENDED_BADLY, GOES_ON, StageStatus, State
from megatron_octo.launch.status.tracebacks import rank_logs
from megatron_octo.process import last_lines

POLL_SECONDS = 1.0
#: Between two questions to Slurm, whose controller serves everybody, and two copies of what lies on a cluster over SSH.
ASK_SECONDS = 15.0
#: Shown of what the job itself said, where no rank left a traceback.
JOB_LINES = 10

Write = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who is listened to. An array's task speaks for the rank of its number."""

    stage: str
    #: Of the stage.
    logs: Path
    rank: int
    #: None is the newest.
    session: int | None

    @property
    def _task(self) -> Path | None:
        """The folder of an array's task; None for other jobs."""
        return None if sessions.tasks(self.logs) == [self.logs] else self.logs / f"task{self.rank:05d}"

    @property
    def sessions(self) -> dict[int, Path]:
        """Folders of the sessions there are; on this machine none."""
        return sessions.folders(self._task or self.logs)

    def folder(self) -> Path:
        """Where the session's logs lie. Raises `ArtifactError` where it has none."""
        if self.session is None:
            return self.sessions[max(self.sessions)] if self.sessions else self.logs
        if self.session not in self.sessions:
            there = listed([str(number) for number in self.sessions])
            raise ArtifactError(f"{self.stage} has no session {self.session}; there are: {there}")
        return self.sessions[self.session]

    def file(self, folder: Path) -> Path | None:
        """What this rank says in a session, None as long as it says nothing."""
        return rank_logs(folder).get(self.rank if self._task is None else 0)


def show(
    study: Path,
    stage: str,
    *,
    follow: bool,
    session: int | None,
    rank: int,
    write: Write,
    ask_seconds: float = ASK_SECONDS,
) -> int:
    """Write what one rank of a stage said, then why the stage ended badly if it did.

    Args:
        session: None is the newest, and with `follow` those that come.
        write: takes text as it is, line ends included.
        ask_seconds: between two looks at where the stage stands.
    Returns:
        1 where the stage has ended badly, else 0.
    Raises:
        ArtifactError: there is no such session or rank.
        ConfigError: there is no such stage.
        ResourceError: Slurm or the login node does not answer.
    """
    voice = Voice(stage=stage, logs=standing.logs_of(study, stage), rank=rank, session=session)
    if follow:
        stands = _follow(study, voice, write, ask_seconds)
    else:
        standing.fetch_logs(study, stage)
        stands = standing.one(study, stage)
        if stands.state not in ENDED_BADLY or rank_logs(voice.folder()):
            write(_text(voice))
    if stands.state not in ENDED_BADLY:
        return 0
    write(_last_words(voice, stands))
    return 1


def _text(voice: Voice) -> str:
    folder = voice.folder()
    file = voice.file(folder)
    if file is not None:
        return file.read_text(errors="replace")
    if not rank_logs(folder):
        raise ArtifactError(
            f"no rank of {voice.stage} has left a log: it has not started (--follow waits for it), or it ran on this machine alone, "
            "where rank 0 speaks to the terminal"
        )
    raise ArtifactError(
        f"no rank {voice.rank} in {folder}; there are: {listed([str(rank) for rank in rank_logs(folder)])}"
    )


def _last_words(voice: Voice, stands: StageStatus) -> str:
    """Why a stage ended badly: one sentence, and the traceback of the rank that failed first."""
    if stands.state is State.BLOCKED:
        return f"{voice.stage} is blocked by {stands.blocked_by}; see 'logs {stands.blocked_by}'\n"
    sentence = f"\n{voice.stage} {stands.state.value}: {stands.detail}\n"
    failure = tracebacks.first_failure(voice.folder())
    if failure is None:
        return sentence + _last_of_the_job(voice.logs)
    return f"{sentence}rank {failure.rank} failed first ({failure.file}):\n" + "\n".join(failure.lines) + "\n"


def _last_of_the_job(logs: Path) -> str:
    """What srun and the batch script said last: who was killed, what they refused before a rank began."""
    files = sorted([*logs.glob("log-*.out"), *logs.glob("sbatch_*.out")], key=lambda file: file.stat().st_mtime_ns)
    return "".join(
        f"the job's last lines ({file}):\n" + "\n".join(lines) + "\n"
        for file in files[-2:]
        if (lines := last_lines(file, JOB_LINES))
    )


def _follow(study: Path, voice: Voice, write: Write, ask_seconds: float) -> StageStatus:
    """Write what comes until the stage has ended or, with a session named, a newer one has begun. Returns where it stands then."""
    reader, waited_for = _Reader(voice, write), ""
    while True:
        standing.fetch_logs(study, voice.stage)
        stands = standing.one(study, voice.stage)
        over = stands.state not in GOES_ON
        reader.advance(to_the_end=over)
        if over or reader.is_left_behind:
            return stands
        waits_for = (stands.detail or "") if stands.state is State.WAITING else ""
        if waits_for not in ("", waited_for):
            write(f"{voice.stage} waits: {waits_for}\n")
        waited_for = waits_for
        asked = time.monotonic()
        while time.monotonic() - asked < ask_seconds:
            time.sleep(POLL_SECONDS)
            reader.advance()


class _Reader:
    """How far somebody who follows has read, and in which session."""

    def __init__(self, voice: Voice, write: Write) -> None:
        self._voice, self._write = voice, write
        #: Begins with the newest session, not with all there were.
        self._number = voice.session if voice.session is not None else max(voice.sessions, default=0)
        self._offset, self._announced, self._mid_line = 0, False, False

    @property
    def is_left_behind(self) -> bool:
        """The session that was asked for is not the newest any more."""
        return self._voice.session is not None and max(self._voice.sessions, default=0) > self._voice.session

    def advance(self, *, to_the_end: bool = False) -> None:
        """Write what is new: whole lines of a session that goes on, all of one that is over."""
        folders = self._voice.sessions
        if not folders:
            self._write_new(self._voice.logs, to_the_end=to_the_end)
        for number in [number for number in folders if number >= self._number]:
            if number > self._number and self._voice.session is not None:
                return
            if number > self._number or not self._announced:
                self._number, self._offset, self._announced = number, 0, True
                if self._voice.session is None:
                    self._write("\n" * self._mid_line + f"-- {self._voice.stage}: session {number} --\n")
            self._write_new(folders[number], to_the_end=to_the_end or number < max(folders))

    def _write_new(self, folder: Path, *, to_the_end: bool) -> None:
        file = self._voice.file(folder)
        if file is None:
            return
        with file.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        if not to_the_end:
            new = new[: new.rfind(b"\n") + 1]
        self._offset += len(new)
        if new:
            self._write(new.decode(errors="replace"))
            self._mid_line = not new.endswith(b"\n")
