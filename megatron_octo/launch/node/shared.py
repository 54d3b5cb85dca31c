"""Whether the nodes of a job see one file system: every rank leaves a file, and looks for that of rank 0. Part of `check.py`."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import artifacts

#: NFS asks for a directory's entries anew after 60 s at the latest (acdirmax, nfs(5)).
PATIENCE_SECONDS = 65.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class SharedDirectory:
    """As one rank sees it."""

    directory: Path
    #: Of this srun and no other: what an earlier one left behind does not count.
    key: str
    #: How long a file may take to be seen.
    patience_seconds: float

    def leave_word(self, rank: int) -> str | None:
        """Write; why that does not go, where it does not."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            artifacts.write_json(self._file(rank), {"rank": rank})
        except OSError as error:
            return f"cannot write to {self.directory}: {error.strerror}"
        return None

    def look_for_rank_0(self) -> str | None:
        """Why its file is not to be seen here, which was written by now."""
        return None if self._sees(0, self._deadline()) else f"does not see in {self.directory} what rank 0 wrote there"

    def hidden(self, ranks: Iterable[int]) -> list[int]:
        """The ranks whose files are not to be seen here, however many: they are waited for together. The files go."""
        files, deadline = {rank: self._file(rank) for rank in ranks}, self._deadline()
        found = [rank for rank in files if not self._sees(rank, deadline)]
        for file in files.values():
            file.unlink(missing_ok=True)
        return found

    def _file(self, rank: int) -> Path:
        return self.directory / f".{self.key}.rank{rank:05d}"

    def _deadline(self) -> float:
        return time.monotonic() + self.patience_seconds

    def _sees(self, rank: int, deadline: float) -> bool:
        while not self._file(rank).exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True
