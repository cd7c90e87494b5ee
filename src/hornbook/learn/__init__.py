"""For learners: the ladder of models, explanations in figures, exercises checked."""

from hornbook.learn.lessons import check as check
