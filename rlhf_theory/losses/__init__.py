"""Direct preference losses: pure functions of log-probabilities, for tables and language models.

A loss is a frozen dataclass of its settings, called with `Comparisons` (or `Groups` of K responses
with rewards); it works on every array library, and gradients flow where the library has them.
"""

from rlhf_theory.losses.by_name import make, planning
from rlhf_theory.losses.comparisons import Comparisons, GroupLoss, Groups, Law, PairLoss, soft
from rlhf_theory.losses.divergences import FDPO, ChiPO
from rlhf_theory.losses.group_losses import NCA, RRHF, InfoNCA
from rlhf_theory.losses.logistic import CDPO, DPO, RDPO, VPO, XPO, RobustDPO
from rlhf_theory.losses.margin_losses import EXO, Exponential, Hinge, Savage, SquaredHinge
from rlhf_theory.losses.ratio_losses import BCO, KTO, SPPO, NCAPair, SPPOHard, mismatched_kl
from rlhf_theory.losses.reference_free import CPO, ORPO, SimPO, SLiC
from rlhf_theory.losses.square_losses import INPO, IPO, IPOPerToken, mixed_reference

__all__ = [
    "BCO",
    "CDPO",
    "CPO",
    "DPO",
    "EXO",
    "FDPO",
    "INPO",
    "IPO",
    "KTO",
    "NCA",
    "ORPO",
    "RDPO",
    "RRHF",
    "SPPO",
    "VPO",
    "XPO",
    "ChiPO",
    "Comparisons",
    "Exponential",
    "GroupLoss",
    "Groups",
    "Hinge",
    "IPOPerToken",
    "InfoNCA",
    "Law",
    "NCAPair",
    "PairLoss",
    "RobustDPO",
    "SLiC",
    "SPPOHard",
    "Savage",
    "SimPO",
    "SquaredHinge",
    "make",
    "mismatched_kl",
    "mixed_reference",
    "planning",
    "soft",
]
