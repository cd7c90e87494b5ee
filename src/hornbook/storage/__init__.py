"""What reaches the disk: files read with care, writes made whole, locks, the cache, checkpoints."""
