"""An OpenAI-compatible server, as a noun; who talks to one is `server_client.py`."""

from dataclasses import dataclass, field

from megatron_octo.config import AT_RUN_TIME, require_positive
from megatron_octo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Server:
    """An OpenAI-compatible server."""

    #: Up to and including `/v1`.
    url: str = field(metadata=AT_RUN_TIME)
    #: The model's name there.
    model: str
    #: Requests under way at a time.
    concurrency: int = field(default=64, metadata=AT_RUN_TIME)

    def __post_init__(self) -> None:
        require_positive(self, "concurrency")
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"the server's url is {self.url}; it begins with http:// or https:// and ends as the API's, in /v1"
            )
