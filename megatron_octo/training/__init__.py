import warnings

# On every rank and at every import and save, megatron-core 0.16.1 warns about packages that have no build for this machine, and
# torch 2.13 about names it deprecated and Megatron-Core still uses. Neither is for our users.
warnings.filterwarnings("ignore", module=r"megatron\.")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.")
