"""What a model is worth: the exact loss, and the diagnosis of a training curve."""
