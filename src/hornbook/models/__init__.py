"""The models, from a table of bigrams to the GPT: one protocol, one class each.

They are imported by file: a spec, and the shapes of a GPT's weights, are read without torch.
"""
