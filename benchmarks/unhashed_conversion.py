"""Our conversion without the sha256 of what it writes: what the copying alone costs. `unhashed_conversion.py CONFIG.json OUT`."""

from typing import Any

from megatron_octo import process
from megatron_octo.conversion import copying, run
from megatron_octo.conversion.config import Conversion


class NoHash:
    """Stands in for hashlib in `copying`."""

    @staticmethod
    def sha256() -> "NoHash":
        return NoHash()

    def update(self, data: Any) -> None:
        pass

    def hexdigest(self) -> str:
        return "0" * 64


if __name__ == "__main__":
    copying.hashlib = NoHash  # type: ignore[assignment]
    raise SystemExit(process.main(run.run, Conversion))
