"""Chains of small operations that a GPU can run as one kernel. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Fusions:
    """Which chains are one kernel. All off: no run of ours has shown what they gain.

    What they should gain is bytes of memory traffic saved over an H100's 3.35 TB/s, of a step at 445 TFLOP/s: Llama-3.2-1B at 8,192 tokens,
    and in brackets 3B. The memory estimate counts them as off.
    """

    #: SiLU, its product with up, and both gradients (torch.compile): 5 % (3 %), and two tensors of FFN width less are kept per layer.
    swiglu: bool = False
    #: Softmax and loss over the vocabulary (torch.compile): 5 % (2 %). Its gradient is bf16 in any precision, so not for fp32.
    cross_entropy: bool = False
    #: Rotation of queries and keys, by Transformer Engine: 3 % (3 %).
    rope: bool = False
    #: Gradients of matrices added to the fp32 buffer by the matrix product that makes them: 3 % (3 %). Needs Apex built with its CUDA
    #: extensions, because Megatron's output layer asks for them; Transformer Engine's layers bring their own.
    gradient_accumulation: bool = False
