"""The client side of OpenAI-compatible servers: patience, and exceptions made readable. Key: OPENAI_API_KEY, where one is wanted."""

import asyncio
import contextlib
import os
from collections.abc import Iterator

from megatron_octo.errors import ConfigError, OctoError, ResourceError
from megatron_octo.servers import Server

try:
    import openai
except ImportError as error:
    raise ResourceError(
        f"a server is asked through the openai package ({error}): pip install megatron-octo[eval]"
    ) from error

#: Of a request that meets a full (429) or failing (5xx) server, or a cut connection: about 40 seconds with the client's pauses
#: of 0.5, 1, 2, 4 and then 8 seconds.
MAX_RETRIES = 8
CONNECT_SECONDS = 10.0
#: A long response that waits behind many others (guess).
READ_SECONDS = 3600.0


def client(server: Server, *, max_retries: int | None = None) -> openai.AsyncOpenAI:
    """A client whose requests wait and are tried again; to be closed on the event loop that used it."""
    return openai.AsyncOpenAI(
        base_url=server.url,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        max_retries=MAX_RETRIES if max_retries is None else max_retries,
        timeout=openai.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
    )


def require_model(server: Server) -> None:
    """Raises `ConfigError` where the server has no such model or speaks another language, `ResourceError` where none is there."""
    with explaining(server):
        try:
            served = asyncio.run(_served(server))
        except (AttributeError, ValueError) as error:  # what the client makes of a web page
            raise ConfigError(
                f"{server.url} answers, but with no list of models; its URL must end as the API's, in /v1"
            ) from error
    if server.model not in served:
        raise ConfigError(
            f"the server at {server.url} has no model '{server.model}'; it has {', '.join(served) or 'none'}"
        )


@contextlib.contextmanager
def explaining(server: Server) -> Iterator[None]:
    """What the client raises, as an exception for people."""
    try:
        yield
    except openai.APIError as error:
        raise explained(error, server) from error


def explained(error: openai.APIError, server: Server) -> OctoError:
    """A client's exception as one for people."""
    said = f"{error.message} {error.__cause__ or ''}".strip()
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return ConfigError(f"the server at {server.url} refuses the key ({said}); set OPENAI_API_KEY")
    if isinstance(error, openai.NotFoundError):
        return ConfigError(
            f"the server at {server.url} has no model '{server.model}' or no completions ({said}); its URL ends in /v1"
        )
    if isinstance(error, openai.APIStatusError) and error.status_code < 500 and error.status_code != 429:
        return ConfigError(f"the server at {server.url} refuses a request ({said})")
    return ResourceError(
        f"the server at {server.url} does not answer ({said}); start it, or run again when it is back: what is done is kept"
    )


async def _served(server: Server) -> list[str]:
    """Names of the models; without patience, so that a wrong address is known at once."""
    async with client(server, max_retries=0) as asking:
        return [model.id async for model in asking.models.list()]
