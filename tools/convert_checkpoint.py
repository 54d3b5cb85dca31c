"""Megatron checkpoints to Hugging Face and back: `convert_checkpoint.py to-hf|from-hf SRC DST`, options as of `megatron-octo convert`."""

from _start import start

if __name__ == "__main__":
    raise SystemExit(start("megatron_octo.cli", "convert_checkpoint"))
