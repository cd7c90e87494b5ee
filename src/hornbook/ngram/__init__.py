"""Language models from counts: n-gram tables, their tuning, and the suffix array of a text."""

from hornbook.ngram.counting import NGramModel as NGramModel
from hornbook.ngram.counting import best_bigram_loss as best_bigram_loss
from hornbook.ngram.counting import bigram_counts as bigram_counts
