"""A network and n-grams as one model: n-grams memorise, and the network learns the rest.

Shapes in names: B batch, T time, S the positions given, C n_embd, V vocabulary, N the order of the
n-grams, R the lengths of n-gram in the context.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.language import msg
from hornbook.models.context_counts import LENGTHS, ContextCounts
from hornbook.models.gpt import GPT
from hornbook.models.kv_cache import KeyValueCache
from hornbook.models.language_model import Batch, LanguageModel
from hornbook.models.ngram import NGramLanguageModel, NGramProbs
from hornbook.ngram.model import MIN_PROB

GATE_WIDTH = 64


class GPTWithCounts(LanguageModel):
    """logits = network + gate * log p, where p comes from the text's n-grams and the context's own.

    The network's logits start at zero and the gate at one: training starts from the n-gram model.
    The gate is one number a position, learned from the network's last hidden state, the backoff
    weight of each order, and how often n-grams occurred before in the context.
    Sources: the product of experts, Hinton 2002; a network as the residual of an n-gram model, Li
    et al. 2022, arXiv:2210.14431. What else was tried is in docs/experiments.md.
    """

    # The names of the parts are those of the weights in every run's checkpoints: `recent` is the
    # context's own n-grams, `evidence` and `trust` are the gate's two layers.
    def __init__(self, network: GPT, counts: NGramLanguageModel) -> None:
        super().__init__(network.vocab_size, network.block_size, network.context_size)
        self.network = network
        self.counts = counts
        self.recent = ContextCounts(counts.vocab_size)
        self.evidence = nn.Linear(network.schema.n_embd + 2 * counts.order + LENGTHS, GATE_WIDTH)
        self.trust = nn.Linear(GATE_WIDTH, 1)
        nn.init.zeros_(self.trust.weight)
        nn.init.ones_(self.trust.bias)

    @property
    def summary(self) -> str:
        """Both halves in one line."""
        return msg("{first}, and {second}", first=super().summary, second=self.counts.summary)

    def forward(
        self,
        idx_BS: Tensor,
        targets_BT: Tensor | None = None,
        ngram_probs: NGramProbs | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`ngram_probs` replaces the model's own n-grams, where those have counted the targets.

        With fewer targets than tokens, the tokens before the last T are context for the n-grams:
        the network, which takes nearly all of the time, does not read them.
        """
        T = idx_BS.size(1) if targets_BT is None else targets_BT.size(1)
        found = self.counts.lookup(idx_BS, last=T) if ngram_probs is None else ngram_probs
        logits_BTV = self.join(self.network.hidden(idx_BS[:, -T:]), found, idx_BS)
        return self.logits_and_loss(logits_BTV, targets_BT)

    def training_loss(self, batch: Batch) -> Tensor:
        """The mean cross-entropy of a training batch, by its cross-fitted n-grams."""
        _, loss = self(batch.inputs, batch.targets, batch.ngram_probs)
        return loss

    def new_cache(self, batch_size: int = 1) -> KeyValueCache:
        """An empty cache for decoding `batch_size` texts together."""
        return self.network.new_cache(batch_size)

    def next_logits(self, idx_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits of the token after the last one, float32: [B,T] -> [B,V]; fills the cache."""
        context_BS = idx_BT if cache is None else cache.remember(idx_BT)
        hidden_BTC = self.network.hidden(idx_BT, cache)
        found = self.counts.lookup(context_BS, last=1)
        return self.join(hidden_BTC[:, -1:], found, context_BS)[:, 0]

    def join(self, hidden_BTC: Tensor, ngram_probs: NGramProbs, context_BS: Tensor) -> Tensor:
        """The logits after the last T positions, float32: [B,T,V]."""
        p_BTV, backoff_BTN = ngram_probs
        p_BTV, came_BTR = self.recent(context_BS, p_BTV)
        features = (hidden_BTC.float(), backoff_BTN, (backoff_BTN < 1).float(), came_BTR.log1p())
        gate_BT1 = self.trust(F.silu(self.evidence(torch.cat(features, dim=-1))))
        return self.network.logits(hidden_BTC).float() + gate_BT1 * p_BTV.clamp_min(MIN_PROB).log()
