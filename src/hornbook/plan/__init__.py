"""Which run fits this machine, text and time: hardware, memory, scaling law, planner."""

from hornbook.plan.machine import Choice, Machine
from hornbook.plan.memory import counted_part, learned_part
from hornbook.plan.planner import Plan
from hornbook.plan.resolved import check_memory, dry_run, resolve

__all__ = [
    "Choice",
    "Machine",
    "Plan",
    "check_memory",
    "counted_part",
    "dry_run",
    "learned_part",
    "resolve",
]
