"""`RewardSpec` and its parts: everything between a text and a reward, saved beside the weights.

A score depends on more than weights: on the template, on the tokens between steps, on where a head
is read, on what its number means, on how steps and objectives are aggregated. All of that is one
frozen value that training writes to `prm_config.json` and every other surface reads back.
"""

from prm.spec.parts import STEP_MARKER as STEP_MARKER
from prm.spec.parts import Direction as Direction
from prm.spec.parts import GoldenChain as GoldenChain
from prm.spec.parts import GoldenResponse as GoldenResponse
from prm.spec.parts import ResponseFormat as ResponseFormat
from prm.spec.parts import ResponseHead as ResponseHead
from prm.spec.parts import Shaping as Shaping
from prm.spec.parts import StepFormat as StepFormat
from prm.spec.parts import StepHead as StepHead
from prm.spec.parts import Template as Template
from prm.spec.parts import TokenizerIdentity as TokenizerIdentity
from prm.spec.reward_spec import SPEC_FILE as SPEC_FILE
from prm.spec.reward_spec import SPEC_VERSION as SPEC_VERSION
from prm.spec.reward_spec import RewardSpec as RewardSpec
