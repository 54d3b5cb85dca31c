import warnings

# Megatron warns on every rank, when it is imported, about packages that have no build for this machine.
warnings.filterwarnings("ignore", message=".*Apex (is|are) not installed")
warnings.filterwarnings("ignore", message=".*Transformer Engine .*not installed")
