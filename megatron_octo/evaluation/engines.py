"""Who answers the questions, by the config's choice. Each engine's packages are imported when it is the one."""

from random import Random

from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.completions import Completer
from megatron_octo.evaluation.config import Engine, Evaluation


def completer(config: Evaluation) -> Completer:
    """The engine, ready to answer. Raises `ArtifactError`, `ConfigError` or `ResourceError` where it cannot."""
    if config.engine is Engine.SERVER:
        from megatron_octo.evaluation.server_engine import ServerCompleter

        assert config.server is not None
        return ServerCompleter(config.server)
    assert config.model is not None
    if config.engine is Engine.VLLM:
        from megatron_octo.evaluation.vllm_engine import VLLMCompleter

        return VLLMCompleter(config.model)
    from megatron_octo.evaluation.transformers_engine import TransformersCompleter

    return TransformersCompleter(config.model, batch_size=config.batch_size)


def seed_at(seed: int, place: int) -> int:
    """31 bits, the most that every server takes: the seed of the prompt at a place, unrelated to its neighbours'."""
    return Random(f"{seed}/{place}").getrandbits(31)


def require_room(longest_prompt: int, max_new_tokens: int, max_positions: int | None) -> None:
    """Raises `ConfigError` where a response could run past the positions that the model was made for."""
    if max_positions is not None and longest_prompt + max_new_tokens > max_positions:
        room = max_positions - longest_prompt
        way_out = f"set max_new_tokens to at most {room:,}" if room > 0 else "take fewer shots (num_shots)"
        raise ConfigError(
            f"the longest prompt has {longest_prompt:,} tokens, which with max_new_tokens={max_new_tokens:,} is more than the "
            f"model's {max_positions:,} positions; {way_out}"
        )
