"""From any source to batches of tokens.

In order: sources (bytes), decoding, survey (first pass), corpora (by name), corpus (any text),
tokenizer, arrays (tokens on disk), dataset (training and validation parts), batches.
"""

from hornbook.text.corpora import known_corpora
