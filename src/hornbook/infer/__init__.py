"""Generation: decoders, sampling, batches, and the engine that streams text."""

from hornbook.infer.batch import tokens as tokens
from hornbook.infer.engine import Engine as Engine
from hornbook.infer.sampling import probabilities as probabilities
