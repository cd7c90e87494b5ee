"""A run folder after its beginning: found, loaded, checked and measured."""
