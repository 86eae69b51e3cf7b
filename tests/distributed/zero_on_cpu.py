"""DeepSpeed on gloo ranks, which Lightning refuses; imported by name, by tests alone."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy

from prm.training.strategies import ZeroStrategy


class ZeroOnCPU(ZeroStrategy):
    """`ZeroStrategy` without the checks that it runs on GPUs."""

    @property
    def root_device(self) -> torch.device:
        """The CPU by an index, which DeepSpeed asks for."""
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        """Leave out that the accelerator must be CUDA."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Leave out that devices must have an index."""
        self.set_world_ranks()
        self._init_deepspeed_distributed()
