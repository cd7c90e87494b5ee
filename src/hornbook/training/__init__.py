"""Training: one step, the loop around it, and its state on the disk."""

from hornbook.training.loop import steps as steps
from hornbook.training.loop import train as train
from hornbook.training.state import StepMetrics as StepMetrics
from hornbook.training.step import train_step as train_step
from hornbook.training.trainer import Trainer as Trainer
from hornbook.training.trainer import begin as begin
from hornbook.training.trainer import lasting_reference as lasting_reference
from hornbook.training.trainer import resume as resume
