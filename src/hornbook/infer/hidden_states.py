"""A GPT's last hidden states, by decoder.c: what embeddings of texts are the mean of.

Shapes in names: T time, C n_embd, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hornbook.infer.native_decoder import NativeDecoder, Weights
from hornbook.models.schema import Schema


class HiddenStates:
    """The normalised output of the last block, of one text at a time.

    The logits' matrix is replaced by the identity, so that the logits are the hidden states.
    Raises: CheckpointError for weights of another shape; NativeUnavailableError.
    """

    def __init__(self, schema: Schema, weights: Weights, *, context_size: int) -> None:
        self.width, self.vocab_size = schema.n_embd, schema.vocab_size
        self.context_size = context_size
        # Rows of the two tables come in pairs: the longer one decides, the other gets zeros.
        size = max(schema.vocab_size, schema.n_embd)
        identity_VC = np.eye(size, schema.n_embd, dtype=np.float32)
        embedding_VC = np.zeros((size, schema.n_embd), np.float32)
        embedding_VC[: schema.vocab_size] = weights["embedding.weight"]
        tables = {"embedding.weight": embedding_VC, "logits.weight": identity_VC}
        self._decoder = NativeDecoder(
            replace(schema, vocab_size=size, tied=False),
            {**weights, **tables},
            context_size=context_size,
        )

    def read(self, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """The states of the text's next tokens, the first of which stands at `start`: [T,C].

        Raises: IndexError for a token outside the vocabulary, or past the context.
        """
        return self._decoder.forward_each(tokens, 0, start)[:, : self.width]
