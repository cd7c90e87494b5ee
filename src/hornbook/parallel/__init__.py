"""Training by several processes: who they are, and what they exchange."""

from hornbook.parallel.job import Job
from hornbook.parallel.ranks import ALONE, Ranks, join
