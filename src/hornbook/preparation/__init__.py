"""Makes a store of texts that may be larger than a machine: shards of tokens, and a manifest.

In order: files (what there is), units (what one shard is made of), documents (reading them),
shard (tokens of one unit), duplicates, work (all of it, by several processes and jobs).
"""
