"""Generation: decoders, sampling, and text streamed as it is made."""

from hornbook.infer.generate import probabilities as probabilities
from hornbook.infer.generate import tokens as tokens
