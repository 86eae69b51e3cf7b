"""Estimates of the memory and speed of training, from the sizes of a decoder alone.

Weights, gradients, optimizer states and kept activations are counted tensor by tensor, as torch
allocates them: `tests/benchmarks/sizing.py` compares each count with what it measures. How much of
a GPU's peak is reached, and what the allocator, kernels and communication need besides, are
assumptions, and are named as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prm.errors import ConfigError
from prm.training.sizing.shapes import DecoderShape

Strategy = Literal["single", "ddp", "fsdp2", "zero2", "zero3"]
Precision = Literal["float32", "bf16-mixed", "bfloat16"]

GIB = 1024**3

USABLE = 0.9
"""Share of a GPU's memory to plan with: an assumption, for the context, kernels and fragments."""

MFU = 0.4
"""Share of a GPU's peak that useful work reaches: an assumption, unless it is given."""

NUM_GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of GPUs that are tried."""

SHARDED: tuple[Strategy, ...] = ("fsdp2", "zero2", "zero3")


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a data sheet says of a GPU.

    Args:
        memory: Memory in GB (1e9 bytes).
        tflops: Peak of dense bfloat16 products, in 1e12 operations per second.
    """

    memory: float
    tflops: float


GPUS = {
    "A100-40": Gpu(40, 312),
    "A100-80": Gpu(80, 312),
    "L40S": Gpu(48, 362),
    "H100": Gpu(80, 989),
    "H200": Gpu(141, 989),
    "B200": Gpu(180, 2250),
}


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, and how.

    Args:
        precision: Type of stored weights and of activations: the same, or float32 weights under
            autocast, for which fsdp2 has float32 shards that are gathered in bfloat16.
        strategy: How ranks share the work.
        num_gpus: Ranks, at least 1.
        max_tokens: Tokens of a micro-batch.
        checkpointing: Recompute activations layer by layer.
        lora_rank: Rank of adapters; `None` to train the weights themselves.
        frozen: Train the heads only.
        path_length: Tokens that the last token of a prompt with its response sees.

    Raises:
        ConfigError: The options exclude each other, or a number is too small.
    """

    precision: Precision = "bf16-mixed"
    strategy: Strategy = "single"
    num_gpus: int = 1
    max_tokens: int = 16384
    checkpointing: bool = True
    lora_rank: int | None = None
    frozen: bool = False
    path_length: int = 1024

    def __post_init__(self) -> None:
        if self.frozen and self.lora_rank is not None:
            raise ConfigError("--lora and --freeze_backbone exclude each other")
        if self.strategy == "single" and self.num_gpus > 1:
            raise ConfigError("strategy single is for one GPU", got=f"{self.num_gpus} GPUs")
        counts = (self.num_gpus, self.max_tokens, self.path_length)
        if min(*counts, 1 if self.lora_rank is None else self.lora_rank) < 1:
            raise ConfigError("a size is wrong", expected="numbers of at least 1", got=self)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each GPU, by what they are for; see `memory`."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(getattr(self, name) for name in self.__slots__)


def weight_bytes(precision: Precision) -> int:
    """Return the bytes of a stored weight."""
    return 2 if precision == "bfloat16" else 4


def compute_bytes(precision: Precision) -> int:
    """Return the bytes of an activation inside of a layer."""
    return 4 if precision == "float32" else 2


def num_trained(shape: DecoderShape, training: Training) -> int:
    """Return the trained parameters of the backbone; heads are a row per objective."""
    if training.frozen:
        return 0
    if training.lora_rank is not None:
        return shape.num_adapter_parameters(training.lora_rank)
    return shape.num_parameters


def activation_bytes_per_layer(
    shape: DecoderShape, precision: Precision, autocast: bool = True
) -> int:
    """Return the bytes that a decoder layer keeps of each token for its backward pass.

    Kept are, for each of the two norms, its input and inverse scale in float32, the normalized
    state and the output; queries, keys, values (repeated for every query head) and the output of
    attention with its log-sum-exp; and four widths of the gated MLP. Autocast keeps the outputs of
    the norms in float32, and a copy in bfloat16 for each linear map that reads them.

    Args:
        shape: The decoder.
        precision: Type of the activations.
        autocast: Whether `bf16-mixed` is autocast, not gathered in bfloat16 as by fsdp2.

    Example:
        >>> from prm.training.sizing.shapes import load_shape
        >>> activation_bytes_per_layer(load_shape("Qwen2.5-0.5B"), "float32")
        113728
    """
    size = compute_bytes(precision)
    mixed = precision == "bf16-mixed" and autocast
    per_norm = 4 * shape.hidden_size + 4
    norms = 2 * (per_norm + 2 * size * shape.hidden_size)
    if mixed:
        norms = 2 * (per_norm + 4 * shape.hidden_size) + 5 * size * shape.hidden_size
    head_norms = 0
    if shape.qk_norm:
        width, heads = shape.query_size + shape.kv_size, shape.num_heads + shape.num_kv_heads
        head_norms = (4 + size) * width + 4 * heads
    attention = 4 * size * shape.query_size + 4 * shape.num_heads
    return norms + head_norms + attention + 4 * size * shape.intermediate_size


def activation_bytes(shape: DecoderShape, training: Training) -> int:
    """Return the bytes of activations that one micro-batch keeps, at most.

    With checkpointing: the input of each layer, and one layer that is being recomputed.
    """
    if training.frozen:
        return 0
    autocast = training.strategy != "fsdp2"
    per_layer = activation_bytes_per_layer(shape, training.precision, autocast)
    copies = 2 * shape.linear_per_layer if _autocasts(training) else 0
    layer = training.max_tokens * per_layer + copies
    if not training.checkpointing:
        return shape.num_layers * layer
    state = 4 if training.precision == "float32" or _autocasts(training) else 2
    return training.max_tokens * shape.num_layers * state * shape.hidden_size + layer


def workspace_bytes(shape: DecoderShape, training: Training) -> int:
    """Return an estimate of what a layer computes with and does not keep.

    In the backward pass: gradients of three widths of the MLP and of two states.
    """
    width = 2 * shape.hidden_size + 3 * shape.intermediate_size
    return training.max_tokens * width * compute_bytes(training.precision)


def memory(shape: DecoderShape, training: Training) -> Memory:
    """Return the estimated bytes on each GPU.

    `ddp` keeps everything on each rank, and gradients a second time in buckets; `fsdp2` shards all,
    and gathers two layers and the embeddings at a time; `zero2` keeps the weights whole, `zero3`
    shards them as well, both with a float32 copy that the optimizer steps on.

    Source: Rajbhandari et al. 2019, arXiv 1910.02054 (ZeRO); Zhao et al. 2023, arXiv 2304.11277.

    Example:
        >>> from prm.training.sizing.shapes import load_shape
        >>> estimate = memory(load_shape("Qwen2.5-7B"), Training(strategy="fsdp2", num_gpus=8))
        >>> round(estimate.total / GIB, 1)
        24.6
    """
    size = weight_bytes(training.precision)
    trained = size * num_trained(shape, training)
    weights = size * shape.num_parameters
    if training.lora_rank is not None:
        weights += trained
    shards = training.num_gpus
    all_sharded = training.strategy in ("fsdp2", "zero3")
    masters = 4 * num_trained(shape, training) if training.strategy in ("zero2", "zero3") else 0
    return Memory(
        weights=_share(weights, shards if all_sharded else 1),
        gradients=_gradient_bytes(trained, training),
        optimizer=_share(2 * trained + masters, shards if training.strategy in SHARDED else 1),
        gathered=_gathered_bytes(shape, training) if all_sharded and shards > 1 else 0,
        activations=activation_bytes(shape, training),
        workspace=workspace_bytes(shape, training),
    )


def session_bytes_per_token(shape: DecoderShape, precision: Precision) -> int:
    """Return the bytes of keys and values that a scoring session keeps of each token."""
    return 2 * shape.num_layers * shape.kv_size * compute_bytes(precision)


def flops_per_token(shape: DecoderShape, training: Training) -> float:
    """Return the useful operations of a training step for each token.

    Two for each weight of a linear map forward, two for its input's gradient, two for its own: 6 N
    in all, 4 N with adapters, 2 N below frozen weights; and the same multiples of attention over
    half a path. What checkpointing computes again does not count as useful.

    Source: Kaplan et al. 2020, arXiv 2001.08361, section 2.1.
    """
    attention = 4 * shape.num_layers * shape.query_size * training.path_length / 2
    if training.frozen:
        return 2 * shape.num_linear + attention
    passes = 4 if training.lora_rank is not None else 6
    return passes * shape.num_linear + 3 * attention


def tokens_per_second(
    shape: DecoderShape, training: Training, tflops: float, mfu: float = MFU
) -> float:
    """Return the estimated tokens per second of all GPUs together.

    Args:
        shape: The decoder.
        training: How it is trained.
        tflops: Peak of a GPU in the precision's type, in 1e12 operations per second, above 0.
        mfu: Share of the peak that useful operations reach, in (0, 1].
    """
    return training.num_gpus * tflops * 1e12 * mfu / flops_per_token(shape, training)


def fit_gpus(
    shape: DecoderShape, training: Training, gpu_memory: float, strategies: Sequence[Strategy]
) -> Training | None:
    """Return the training on the fewest GPUs that it fits on; `None` if it fits on none.

    Args:
        shape: The decoder.
        training: What is trained; its strategy and number of GPUs are replaced.
        gpu_memory: Memory of a GPU in GB (1e9 bytes).
        strategies: Strategies to try, the preferred one first.
    """
    for num_gpus in NUM_GPUS:
        for strategy in strategies:
            if (strategy == "single") == (num_gpus == 1):
                chosen = replace(training, strategy=strategy, num_gpus=num_gpus)
                if memory(shape, chosen).total <= USABLE * gpu_memory * 1e9:
                    return chosen
    return None


def _autocasts(training: Training) -> bool:
    return training.precision == "bf16-mixed" and training.strategy != "fsdp2"


def _share(num_bytes: int, shards: int) -> int:
    return -(-num_bytes // shards)


def _gradient_bytes(trained: int, training: Training) -> int:
    """Return the bytes of gradients; ddp has buckets beside them."""
    if training.strategy == "ddp":
        return 2 * trained
    return _share(trained, training.num_gpus if training.strategy in SHARDED else 1)


def _gathered_bytes(shape: DecoderShape, training: Training) -> int:
    """Return the bytes of gathered weights: the embeddings, two layers, and their gradients."""
    layers = 2 * shape.parameters_per_layer
    return (2 * layers + shape.num_embeddings) * compute_bytes(training.precision)
