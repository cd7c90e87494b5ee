"""A network and counts as one model: counting does the memorising, the network learns the rest.

Shapes in names: B batch, T time, S the positions of the block, C n_embd, V vocabulary, N the
counts' order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.models.context_counts import LENGTHS, Recent
from hornbook.models.gpt import GPT
from hornbook.models.kv_cache import KeyValueCache
from hornbook.models.language_model import LanguageModel
from hornbook.models.ngram import Counted, NGramLanguageModel
from hornbook.ngram.counting import LEAST

TRUST_WIDTH = 64


class GPTWithCounts(LanguageModel):
    """logits = network + trust * log p, p being what the text's counts and the block's own say.

    The network's logits start at zero and trust at one: the model is born as the counts, and every
    step goes on from there. Trust is learned, one number a position, from what the network has
    read, how much each order of the counts leaves to the shorter ones, and how often runs have
    come before in the block.
    Sources: the product of experts, Hinton 2002; a network as the residual of an n-gram model, Li
    et al. 2022, arXiv:2210.14431. What else was tried is in docs/experiments.md.
    """

    def __init__(self, network: GPT, counts: NGramLanguageModel) -> None:
        super().__init__(network.vocab_size, network.block_size, network.context_size)
        self.network = network
        self.counts = counts
        self.recent = Recent(counts.vocab_size)
        self.evidence = nn.Linear(network.config.n_embd + 2 * counts.order + LENGTHS, TRUST_WIDTH)
        self.trust = nn.Linear(TRUST_WIDTH, 1)
        nn.init.zeros_(self.trust.weight)
        nn.init.ones_(self.trust.bias)

    @property
    def summary(self) -> str:
        """Both halves in a line."""
        return f"{super().summary}, joined with {self.counts.summary}"

    def forward(
        self,
        idx_BS: Tensor,
        targets_BT: Tensor | None = None,
        counted: Counted | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`counted` stands in for the model's own counts, where those know the text already.

        With fewer targets than tokens, what comes before the last T is there for the counts: the
        network, which takes nearly all the time, does not read it.
        """
        T = idx_BS.size(1) if targets_BT is None else targets_BT.size(1)
        counted = self.counts.counted(idx_BS, last=T) if counted is None else counted
        logits_BTV = self.join(self.network.hidden(idx_BS[:, -T:]), counted, idx_BS)
        return self.logits_and_loss(logits_BTV, targets_BT)

    def new_cache(self, batch_size: int = 1) -> KeyValueCache:
        """An empty cache for decoding `batch_size` texts side by side."""
        return self.network.new_cache(batch_size)

    def next_logits(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of the token after the last one, float32: [B,T] -> [B,V]; fills the cache."""
        block_BS = idx_BT if cache is None else cache.remember(idx_BT)
        hidden_BTC = self.network.hidden(idx_BT, cache)
        return self.join(hidden_BTC[:, -1:], self.counts.counted(block_BS, last=1), block_BS)[:, 0]

    def join(self, hidden_BTC: Tensor, counted: Counted, block_BS: Tensor) -> Tensor:
        """The logits of all parts together for the block's last T positions, float32: [B,T,V]."""
        p_BTV, back_BTN = counted
        p_BTV, came_BTR = self.recent(block_BS, p_BTV)
        evidence = (hidden_BTC.float(), back_BTN, (back_BTN < 1).float(), came_BTR.log1p())
        trust_BT1 = self.trust(F.silu(self.evidence(torch.cat(evidence, dim=-1))))
        return self.network.logits(hidden_BTC).float() + trust_BT1 * p_BTV.clamp_min(LEAST).log()
