"""Training: one step, the loop around it, and its state on the disk."""

from hornbook.training.loop import steps, train
from hornbook.training.reference import lasting_settings
from hornbook.training.resumption import resume
from hornbook.training.state import StepMetrics
from hornbook.training.step import train_step
from hornbook.training.trainer import Trainer, begin
