"""The block's own counts: what has followed the same tokens earlier in it.

A name that has come up will come up again, and no count of another text can know it.

Shapes in names: B batch, S the block's positions, T the last of them, V vocabulary, R = LONGEST.
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

    Each length in turn: p <- (count + strength * p) / (total + strength), strengths learned.
    Source: the hierarchical Dirichlet model, MacKay & Peto 1995.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_strength = nn.Parameter(torch.tensor(STRENGTHS).log())

    def forward(self, idx_BS: Tensor, p_BTV: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed distributions of the block's last T positions, and how often each run came.

        Shapes: [B,S], [B,T,V] -> [B,T,V], [B,T,R].
        """
        (B, T, V), S = p_BTV.shape, idx_BS.size(1)
        # Pairs of a position and an earlier one of the same token: for letters one in fifteen, so
        # that a list of them is ten times as quick as matrices of all (512 tokens).
        place_S = torch.arange(S, device=idx_BS.device)
        earlier_TS = place_S < place_S[S - T :, None]
        same_BTS = (idx_BS[:, S - T :, None] == idx_BS[:, None, :]) & earlier_TS
        block, position, past = same_BTS.nonzero(as_tuple=True)
        row, text = block * T + position, idx_BS.flatten()
        there, here = block * S + past, block * S + position + S - T
        run = torch.ones_like(row)
        totals = [row.bincount(minlength=B * T)]
        alive = torch.arange(len(row), device=row.device)
        for length in range(1, LONGEST):
            alive = alive[past[alive] >= length]
            alive = alive[text[there[alive] - length] == text[here[alive] - length]]
            run[alive] += 1
            totals.append(row[alive].bincount(minlength=B * T))
        came_BTR = torch.stack(totals, dim=-1).view(B, T, LONGEST).to(p_BTV.dtype)
        # By length, what one match hands its follower, and what is left to the shorter lengths.
        strength_R = self.log_strength.exp()
        share_BTR = 1 / (came_BTR + strength_R)
        left_BTR = (strength_R * share_BTR).flip(-1).cumprod(-1).flip(-1)
        handed_BTR = share_BTR * F.pad(left_BTR[..., 1:], (0, 1), value=1.0)
        # A run of so many tokens is a match of every length up to it.
        weight = handed_BTR.cumsum(-1).view(-1, LONGEST)[row, run - 1]
        mixed = (left_BTR[..., :1] * p_BTV).flatten()
        mixed = mixed.index_add(0, row * V + text[there + 1], weight)
        return mixed.view(B, T, V), came_BTR
