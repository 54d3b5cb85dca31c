"""Whether a model has the positions that a recipe's prompts and responses take."""

from megatron_octo.errors import ConfigError
from megatron_octo.rl.config import ReinforcementLearning


def check_context(recipe: ReinforcementLearning, positions: int) -> None:
    """Raises `ConfigError` where the longest prompt with the longest response has no place in the model's positions."""
    if recipe.longest_sequence_tokens > positions:
        raise ConfigError(
            f"prompts of {recipe.max_prompt_tokens} and responses of {recipe.longest_response_tokens} tokens need "
            f"{recipe.longest_sequence_tokens} positions, the model has {positions}; shorten length_schedule or max_prompt_tokens"
        )
