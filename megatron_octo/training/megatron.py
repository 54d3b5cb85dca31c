"""The only file that knows both vocabularies: our config on one side, Megatron-Core's objects on the other.

`parallel_state` is read here and nowhere else.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec

from megatron_octo.training.attention import FusedAttention
from megatron_octo.training.config import MidTraining, ModelConfig, Optimizer, Parallelism, Precision

#: Seconds a collective may wait before a lost rank is reported.
COLLECTIVE_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Ranks:
    """This process's place in the layout."""

    rank: int
    world_size: int
    data_parallel_rank: int
    data_parallel_size: int
    #: One rank per data-parallel replica and last pipeline stage holds the loss: tensor-parallel rank 0.
    reports_loss: bool


def device() -> torch.device:
    """The CUDA device of this local rank, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def initialize(parallelism: Parallelism, seed: int) -> Ranks:
    """Join the process group torchrun, srun or the local launcher describes in the environment, and lay out the ranks."""
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())
    else:
        from megatron_octo.training import cpu  # never imported where CUDA is used

        cpu.install()
    # Before anything collective: a layout that cannot work is refused on every rank alike.
    parallelism.data_parallel_size(int(os.environ.get("WORLD_SIZE", "1")))
    _join("nccl" if on_gpu else "gloo")
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallelism.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallelism.pipeline_model_parallel_size,
    )
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return Ranks(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        reports_loss=parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0,
    )


def _join(backend: str) -> None:
    """The process group of torchrun, srun or the local launcher; a group of one where none of them started us."""
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_SECONDS)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group(backend, timeout=timeout)
    else:
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # not in __all__
        torch.distributed.init_process_group(backend, timeout=timeout, store=store, rank=0, world_size=1)


def gpt_config(recipe: MidTraining) -> TransformerConfig:
    return transformer_config(
        recipe.model, recipe.parallelism, recipe.precision, init_method_std=recipe.init_method_std
    )


def transformer_config(
    model: ModelConfig, parallelism: Parallelism, precision: Precision, *, init_method_std: float = 0.02
) -> TransformerConfig:
    """Megatron's config of a Llama decoder; the fusions that need Apex or Transformer Engine stay off."""
    dtype = torch_dtype(precision)
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.kv_channels,
        normalization="RMSNorm",
        layernorm_epsilon=model.layernorm_epsilon,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        init_method_std=init_method_std,
        hidden_dropout=0.0,  # Megatron's default is 0.1
        attention_dropout=0.0,
        tensor_model_parallel_size=parallelism.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallelism.pipeline_model_parallel_size,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision is Precision.BF16,
        # The same initial weights at every tensor-parallel size.
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        attention_softmax_in_fp32=True,
        deallocate_pipeline_outputs=True,
    )


def torch_dtype(precision: Precision) -> torch.dtype:
    return {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}[precision]


def build_gpt(model: ModelConfig, config: TransformerConfig) -> GPTModel:
    """This rank's part of the model, initialised at random."""
    return GPTModel(
        config,
        _layer_spec(),
        vocab_size=model.vocab_size,
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_base=int(model.rotary_base),
        rope_scaling=model.rope_scaling_factor is not None,
        rope_scaling_factor=model.rope_scaling_factor or 1.0,
    )


def _layer_spec() -> ModuleSpec:
    spec = get_gpt_layer_local_spec(normalization="RMSNorm")
    spec.submodules.self_attention.submodules.core_attention = FusedAttention
    return spec


def wrap(gpt: GPTModel, recipe: MidTraining) -> DistributedDataParallel:
    """Megatron's data-parallel wrapper: one fp32 gradient buffer, reduced after the last microbatch."""
    module = gpt if recipe.precision is Precision.FP32 else Float16Module(gpt.config, gpt)
    model = DistributedDataParallel(
        gpt.config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=recipe.parallelism.use_distributed_optimizer,
            check_for_nan_in_grad=True,
        ),
        module,
    )
    model.broadcast_params()
    return model


def build_optimizer(model: DistributedDataParallel, recipe: MidTraining) -> Any:
    """Megatron's optimizer; gradients of tied embeddings and data-parallel ranks are finished by `finalize_model_grads`."""
    settings: Optimizer = recipe.optimizer
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=recipe.schedule.peak_lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad,
            bf16=recipe.precision is Precision.BF16,
            params_dtype=torch_dtype(recipe.precision),
            use_distributed_optimizer=recipe.parallelism.use_distributed_optimizer,
        ),
        [model],
    )
    model.config.finalize_model_grads_func = finalize_model_grads
    model.config.grad_scale_func = optimizer.scale_loss
    return optimizer


def set_learning_rate(optimizer: Any, learning_rate: float, weight_decay: float) -> None:
    """What Megatron's scheduler does each step. Without it norms would decay too: `wd_mult` is applied nowhere else."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the whole world, on every rank."""
    torch.distributed.all_reduce(values)
    return values


def barrier() -> None:
    torch.distributed.barrier()


def is_rank_zero() -> bool:
    return torch.distributed.get_rank() == 0


def from_rank_zero(value: bool) -> bool:
    """Rank 0's answer to a yes-or-no question, on every rank."""
    answer = torch.tensor(int(value), device=device())
    torch.distributed.broadcast(answer, src=0)
    return bool(answer.item())


def data_parallel_group() -> torch.distributed.ProcessGroup:
    group: torch.distributed.ProcessGroup = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return group


def inner_optimizers(optimizer: Any) -> Sequence[Any]:
    """The optimizers a ChainedOptimizer is made of."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))
