"""Chains of small operations that a GPU can run as one kernel. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fusions:
    """Which chains are one kernel. All off: no run of ours has shown what they gain.

    What they should gain is bytes of memory traffic, as a share of a predicted step on an H100 (launch/plan/gpu_figures.py): Llama-3.2-1B at
    8,192 tokens, and in brackets 3B. The memory estimate counts them as off.
    """

    #: SiLU, its product with up, and both gradients (torch.compile): 4.6 % (3.6 %), and two tensors of FFN width less are kept per layer.
    swiglu: bool = False
    #: Softmax and loss over the vocabulary (torch.compile): 5.3 % (2.3 %). Its gradient is bf16 in any precision, so not for fp32.
    cross_entropy: bool = False
    #: Rotation of queries and keys, by Transformer Engine: 2.6 % (3.3 %).
    rope: bool = False
    #: Gradients of matrices added to the fp32 buffer by the matrix product that makes them: 2.2 % (2.5 %). Needs Apex built with its CUDA
    #: extensions, because Megatron's output layer asks for them; Transformer Engine's layers bring their own.
    gradient_accumulation: bool = False
