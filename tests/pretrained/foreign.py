"""Small models of other families, as transformers writes them, and a tokenizer beside them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = "to be, or not to be: that is the question. whether 'tis nobler in the mind, 17 of 42\n" * 9
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 128,
}  # fmt: skip


def tokenizer_json() -> str:
    """A byte-level BPE of 300 tokens, three of them special."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    return made.to_str()


def save(model: Any, folder: Path) -> Path:
    """A model of random weights in a folder, with the tokenizer."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2)
    model.eval().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    config = {"chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def make(kind: str) -> Any:
    """A small model of a family."""
    import transformers

    torch.manual_seed(3)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128, n_inner=48,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    shared = {"vocab_size": 310, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "qwen3":
        config = transformers.Qwen3Config(**SIZES, **shared, tie_word_embeddings=False)
        return transformers.Qwen3ForCausalLM(config)
    scaled = {"rope_parameters": LLAMA3} if kind == "llama3" else {}
    config = transformers.LlamaConfig(**SIZES, **shared, **scaled, tie_word_embeddings=True)
    return transformers.LlamaForCausalLM(config)
