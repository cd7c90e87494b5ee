"""The programs we compare ourselves with, rebuilt from their published settings."""
