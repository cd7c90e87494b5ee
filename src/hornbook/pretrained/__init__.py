"""Models to begin from: runs, folders of Hugging Face, GGUF files and names on the Hub.

Each is hostile until checked: settings and shapes are bounded and compared before memory is taken,
weights are safetensors or GGUF, and nothing in them is run.
"""
