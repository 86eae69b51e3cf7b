"""`RewardSpec` and its parts: everything between a text and a reward, saved beside the weights.

A score depends on more than weights: on the template, on the tokens between steps, on where a head
is read, on what its number means, on how steps and objectives are aggregated. All of that is one
frozen value that training writes to `prm_config.json` and every other surface reads back.
"""

from prm.spec.parts import (
    STEP_MARKER,
    Direction,
    GoldenChain,
    GoldenResponse,
    ResponseFormat,
    ResponseHead,
    Shaping,
    StepFormat,
    StepHead,
    Template,
    TokenizerIdentity,
)
from prm.spec.reward_spec import SPEC_FILE, SPEC_VERSION, RewardSpec

__all__ = [
    "SPEC_FILE",
    "SPEC_VERSION",
    "STEP_MARKER",
    "Direction",
    "GoldenChain",
    "GoldenResponse",
    "ResponseFormat",
    "ResponseHead",
    "RewardSpec",
    "Shaping",
    "StepFormat",
    "StepHead",
    "Template",
    "TokenizerIdentity",
]
