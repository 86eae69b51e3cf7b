"""`prm size`: the memory and speed that a training needs, before anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prm.cli.options import Options, check_least
from prm.errors import ConfigError

if TYPE_CHECKING:
    from prm.training.sizing.estimate import Gpu, Training
    from prm.training.sizing.shapes import DecoderShape

GpuName = Literal["A100-40", "A100-80", "L40S", "H100", "H200", "B200"]
StrategyName = Literal["auto", "single", "ddp", "fsdp2", "zero2", "zero3"]
PrecisionName = Literal["float32", "bf16-mixed", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Size(Options):
    """Estimate the memory and speed of a training, and print the command that starts it.

    For a public model by its name, or a folder with a config.json; nothing is downloaded::

        prm size --model Qwen2.5-7B --gpu H100
        prm size --model runs/arithmetic/model --gpu_memory 24 --tflops 165 --lora 16

    Without a model, the table that compares sizes from 0.5B to 72B, in Markdown::

        prm size --gpu A100-80

    All numbers are estimates. docs/guides/sizing.md says which parts of them were checked against
    measurements.

    Args:
        model: Qwen2.5-7B, Qwen3-8B, Llama-3.1-8B, ...; or a folder with a config.json.
        gpu: Kind of the GPUs: their memory and peak.
        gpu_memory: Memory of a GPU in GB, in place of that kind's.
        tflops: Peak of a GPU in TFLOP/s, in place of that kind's dense bfloat16 peak.
        mfu: Share of the peak that useful work reaches, above 0 and at most 1; an assumption.
        strategy: How GPUs share the work; auto takes one GPU, or fsdp2 on more.
        num_gpus: Number of GPUs; by default the fewest that are enough.
        gpus_per_node: GPUs in a machine.
        precision: Type of weights and activations; bf16-mixed has float32 weights.
        max_tokens: Tokens of a micro-batch.
        path_length: Tokens of a typical prompt with its response.
        gradient_checkpointing: Recompute activations in the backward pass.
        lora: Rank of adapters to train instead of the weights.
        freeze_backbone: Train the heads only.
    """

    model: str | None = None
    gpu: GpuName = "H100"
    gpu_memory: float | None = None
    tflops: float | None = None
    mfu: float = 0.4
    strategy: StrategyName = "auto"
    num_gpus: int | None = None
    gpus_per_node: int = 8
    precision: PrecisionName = "bf16-mixed"
    max_tokens: int = 16384
    path_length: int = 1024
    gradient_checkpointing: bool = True
    lora: int | None = None
    freeze_backbone: bool = False

    def run(self) -> int:
        """Draw the estimate, and return 1 if the training does not fit, else 0."""
        from prm.report.sizing import Estimate, compare, draw
        from prm.training.sizing.estimate import Training
        from prm.training.sizing.shapes import load_shape

        gpus = self._gpus()
        if self.model is None:
            print(compare(gpus, self.mfu))
            return 0
        shape = load_shape(self.model)
        training = Training(
            precision=self.precision,
            max_tokens=self.max_tokens,
            path_length=self.path_length,
            checkpointing=self.gradient_checkpointing,
            lora_rank=self.lora,
            frozen=self.freeze_backbone,
        )
        placed, fits = _place(shape, training, gpus.memory, self.strategy, self.num_gpus)
        from rich.console import Console

        estimate = Estimate(self.model, shape, placed, gpus, self.mfu, fits)
        draw(Console(), estimate, self.gpus_per_node)
        return int(not fits)

    def _gpus(self) -> Gpu:
        """Return what a GPU has; wrong numbers are refused."""
        from prm.training.sizing.estimate import GPUS, Gpu

        kind = GPUS[self.gpu]
        gpus = Gpu(self.gpu_memory or kind.memory, self.tflops or kind.tflops)
        for name, value in (("--gpu_memory", gpus.memory), ("--tflops", gpus.tflops)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} is wrong", expected="a number above 0", got=value)
        if not 0 < self.mfu <= 1:
            raise ConfigError("--mfu is wrong", expected="a share in (0, 1]", got=self.mfu)
        check_least("--gpus_per_node", self.gpus_per_node, 1)
        return gpus


def _place(
    shape: DecoderShape,
    training: Training,
    gpu_memory: float,
    strategy: StrategyName,
    num_gpus: int | None,
) -> tuple[Training, bool]:
    """Return the training on the GPUs that were asked for, or the fewest; and whether it fits."""
    from dataclasses import replace

    from prm.report.sizing import AUTO
    from prm.training.sizing.estimate import NUM_GPUS, USABLE, fit_gpus, memory

    chosen = AUTO if strategy == "auto" else (strategy,)
    if num_gpus is None:
        found = fit_gpus(shape, training, gpu_memory, ("single", *chosen))
        last = replace(training, strategy=chosen[-1], num_gpus=NUM_GPUS[-1])
        return found or last, found is not None
    name = chosen[0] if num_gpus == 1 else chosen[-1]
    placed = replace(training, strategy=name, num_gpus=num_gpus)
    return placed, memory(shape, placed).total <= USABLE * gpu_memory * 1e9
