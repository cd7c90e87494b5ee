"""Training: one step, the loop around it, and its state on the disk."""
