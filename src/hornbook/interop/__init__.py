"""A trained model in the formats of other programs: Hugging Face, GGUF, ONNX.

A format is one file here and one line of `request.FORMATS`.
"""
