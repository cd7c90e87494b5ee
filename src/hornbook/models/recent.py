"""The block's own counts: what has followed the same tokens earlier in it.

A name that has come up will come up again, and no count of another text can know it.

Shapes in names: B batch, T time, S the same positions as a past, V vocabulary, R = LONGEST.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST = 6
# At birth: how many times a run of 1, 2, ... tokens must have come for its followers to weigh as
# much as all that shorter runs say. Learned values on tiny Shakespeare end near these.
STRENGTHS = (900.0, 100.0, 27.0, 12.0, 7.0, 4.0)


class Recent(nn.Module):
    """Mixes a distribution with the followers of matching runs of 1 to LONGEST tokens.

    Each length in turn: p <- (count + strength * p) / (total + strength), all of which is one
    weighted sum over the past, like attention. The strengths are learned.
    Source: the hierarchical Dirichlet model, MacKay & Peto 1995.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_strength = nn.Parameter(torch.tensor(STRENGTHS).log())

    def forward(self, idx_BT: Tensor, p_BTV: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed distributions of the last positions, and how often each run has come.

        `p_BTV` may be of fewer positions than the block has: its last ones.
        Shapes: [B,S], [B,T,V] -> [B,T,V], [B,T,R].
        """
        asked = p_BTV.size(1)
        same_BSS = (idx_BT[:, :, None] == idx_BT[:, None, :]).tril(-1)
        matches: list[Tensor] = []
        run_BSS = same_BSS
        for _ in range(LONGEST):
            matches.append(run_BSS[:, -asked:].to(p_BTV.dtype))
            run_BSS = same_BSS & F.pad(run_BSS[:, :-1, :-1], (1, 0, 1, 0))
        total_BTR = torch.stack([each.sum(-1) for each in matches], dim=-1)
        strength_R = self.log_strength.exp()
        # By length, what a match hands its follower, and what is left to the shorter lengths.
        share_BTR = 1 / (total_BTR + strength_R)
        left_BTR = (strength_R * share_BTR).flip(-1).cumprod(-1).flip(-1)
        handed_BTR = share_BTR * F.pad(left_BTR[..., 1:], (0, 1), value=1.0)
        weights_BTS = torch.zeros_like(matches[0])
        for n, match_BTS in enumerate(matches):
            weights_BTS = weights_BTS + handed_BTR[..., n, None] * match_BTS
        next_BSV = F.one_hot(idx_BT.roll(-1, dims=1), p_BTV.size(-1)).to(p_BTV.dtype)
        return left_BTR[..., :1] * p_BTV + weights_BTS @ next_BSV, total_BTR
