"""From any source to tokens: decoding, corpora, tokenizers, token arrays, batches."""
