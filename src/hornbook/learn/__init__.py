"""For learners: the ladder of models, explanations in figures, and checked exercises."""

from hornbook.learn.drawings import draw
from hornbook.learn.lessons import check, hint, reveal
from hornbook.learn.plots import show
from hornbook.learn.widgets import touch
