"""Looks inside a trained model: attention, the logit lens, attribution, votes, and what-ifs.

A model is read by its own forward pass, and nothing of it changes. The names of activations are
those of TransformerLens.
"""
