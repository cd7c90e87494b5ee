"""Generation: decoders, sampling, batches, and the engine that streams text."""

from hornbook.infer.batch import tokens
from hornbook.infer.engine import Engine
from hornbook.infer.sampling import probabilities
