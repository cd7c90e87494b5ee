"""N-gram models, in order: counting, the model, its states in a text, tuning; suffix arrays."""

from hornbook.ngram.counting import best_bigram_loss
