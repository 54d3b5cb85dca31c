"""Where the models of an OpenRLHF run live: nodes and GPUs for the policy, its reference, a critic and the vLLM engines.

OpenRLHF waits for ever, without a message, for GPUs that Ray does not have. So what a placement needs is arithmetic here, done
before anything starts. Numbers without a source are our choice.
"""

import enum
from dataclasses import dataclass

from megatron_octo.config import require_positive
from megatron_octo.errors import ConfigError


class Colocation(enum.Enum):
    """Which models share GPUs."""

    #: All on the same GPUs, taking turns: engines and optimizer leave the GPU while the other works. Best for few nodes.
    ALL = "all"
    #: Policy and reference share theirs; engines, and a critic, have their own.
    ACTOR_REF = "actor-ref"
    #: Everybody has their own.
    NONE = "none"


class SyncBackend(enum.Enum):
    """How new weights travel from the policy to the engines."""

    NCCL = "nccl"
    GLOO = "gloo"


@dataclass(frozen=True, kw_only=True)
class Needed:
    """GPUs by role; roles that share count once in `total`."""

    actor: int
    reference: int
    critic: int
    engines: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Nodes and GPUs of one RL run, and what fits on them."""

    nodes: int = 1
    gpus_per_node: int = 8
    colocation: Colocation = Colocation.ALL
    #: GPUs of the vLLM engines where they do not share the policy's; None with `Colocation.ALL`.
    rollout_gpus: int | None = None
    #: Tensor-parallel size of one vLLM engine; an engine stays within a node.
    engine_tensor_parallel_size: int = 1
    #: Share of a GPU's memory for an engine's weights and KV cache.
    gpu_memory_utilization: float = 0.8  # [RLCODE] vLLM memory share 0.8 of the released scripts
    enforce_eager: bool = False
    enable_prefix_caching: bool = False
    #: 2 shards optimizer and gradients, 3 the weights too.
    zero_stage: int = 2
    #: Optimizer states in CPU memory.
    adam_offload: bool = False
    gradient_checkpointing: bool = True
    #: Sequences laid end to end without padding; needs a flash-attention kernel.
    packing: bool = True
    attention: str = "flash_attention_2"
    #: Ring attention over so many GPUs, for responses too long for one; needs packing.
    ring_attention_size: int = 1
    #: Tokens per GPU and micro-batch, sequences grouped by length; None: `micro_batch_responses` at a time.
    max_tokens_per_gpu: int | None = 16_384
    micro_batch_responses: int = 1
    #: Generate the next batch while this one trains; the policy is then up to `async_queue_size` batches behind.
    asynchronous: bool = False
    async_queue_size: int = 1
    sync_backend: SyncBackend = SyncBackend.NCCL

    def __post_init__(self) -> None:
        """Raises `ConfigError` for combinations that OpenRLHF refuses, changes silently, or waits for ever with."""
        require_positive(
            self, "nodes", "gpus_per_node", "engine_tensor_parallel_size", "ring_attention_size", "micro_batch_responses",
            "async_queue_size",
        )  # fmt: skip
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"gpu_memory_utilization is {self.gpu_memory_utilization}; it is a share above 0, at most 1"
            )
        if self.zero_stage not in (1, 2, 3):
            raise ConfigError(f"zero_stage is {self.zero_stage}; DeepSpeed has 1, 2 and 3")
        self._check_engines()
        self._check_attention()
        if self.asynchronous and self.colocation is Colocation.ALL:
            raise ConfigError(
                "asynchronous runs generate while they train, so engines need GPUs of their own; set colocation=actor-ref and rollout_gpus"
            )

    def _check_engines(self) -> None:
        if (self.colocation is Colocation.ALL) != (self.rollout_gpus is None):
            raise ConfigError(
                f"rollout_gpus is {self.rollout_gpus} with colocation={self.colocation.value}; engines that share all GPUs have "
                "none of their own, others need a number"
            )
        if self.gpus_per_node % self.engine_tensor_parallel_size:
            raise ConfigError(
                f"engine_tensor_parallel_size {self.engine_tensor_parallel_size} does not divide the {self.gpus_per_node} GPUs of a "
                "node; an engine stays within a node"
            )
        if self.rollout_gpus is not None and self.rollout_gpus % self.engine_tensor_parallel_size:
            raise ConfigError(
                f"rollout_gpus {self.rollout_gpus} does not divide into engines of {self.engine_tensor_parallel_size} GPUs"
            )

    def _check_attention(self) -> None:
        if self.packing and "flash_attention" not in self.attention:
            raise ConfigError(
                f"packing runs with flash attention only, and attention is {self.attention}: OpenRLHF would change it without a "
                "word; set packing=false, or attention=flash_attention_2"
            )
        if not self.packing and (self.ring_attention_size > 1 or self.max_tokens_per_gpu is not None):
            raise ConfigError(
                "ring_attention_size above 1 and max_tokens_per_gpu need packing; set packing=true, or ring_attention_size=1 and "
                "max_tokens_per_gpu=none"
            )

    @property
    def gpus(self) -> int:
        """GPUs there are."""
        return self.nodes * self.gpus_per_node

    def needed(self, *, reference: bool, critic: bool) -> Needed:
        """GPUs by role, the training roles as large as what the engines leave allows.

        Raises:
            ConfigError: nothing is left to train on, or it does not divide into rings.
        """
        if self.colocation is Colocation.ALL:
            actor = engines = total = self.gpus
        else:
            engines = self.rollout_gpus or 0
            separate = 1 + critic + (reference and self.colocation is Colocation.NONE)
            actor = self._training_gpus(engines=engines, separate=separate)
            total = actor * separate + engines
        if actor % self.ring_attention_size:
            raise ConfigError(
                f"ring_attention_size {self.ring_attention_size} does not divide the {actor} GPUs of the policy"
            )
        return Needed(actor=actor, reference=actor * reference, critic=actor * critic, engines=engines, total=total)

    def _training_gpus(self, *, engines: int, separate: int) -> int:
        """GPUs of each of so many models; beyond one node, whole nodes."""
        actor = (self.gpus - engines) // separate
        if actor < 1:
            raise ConfigError(
                f"{self.nodes} x {self.gpus_per_node} GPUs less {engines} for engines leave {self.gpus - engines} for {separate} "
                "separate models; take more nodes, fewer rollout_gpus, or colocation=all"
            )
        return actor if actor <= self.gpus_per_node else actor - actor % self.gpus_per_node

    def training_shape(self, gpus: int) -> tuple[int, int]:
        """(nodes, GPUs on each) of a role with so many GPUs."""
        return (1, gpus) if gpus <= self.gpus_per_node else (gpus // self.gpus_per_node, self.gpus_per_node)
