"""Disk access: safe reads, atomic writes, locks, the cache, checkpoints."""
