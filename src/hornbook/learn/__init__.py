"""For learners: the ladder of models, explanations in figures, and checked exercises."""

from hornbook.learn.lessons import check, hint, reveal
