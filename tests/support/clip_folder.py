"""A CLIP network of some ten thousand parameters with a tokenizer made on the spot: it knows nothing of anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast


def write_clip(folder: Path, texts: Sequence[str], *, seed: int = 0) -> Path:
    """The folder of a reduced network with random weights, in the form that transformers writes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    start, end = "<|startoftext|>", "<|endoftext|>"
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[start, end], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = {token: tokenizer.token_to_id(token) for token in (start, end)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=list(ids.items())
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 32,
            "bos_token_id": ids[start], "eos_token_id": ids[end], "pad_token_id": ids[end],
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CLIPModel(config)
    network.save_pretrained(folder)
    fast.save_pretrained(folder)
    told = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder
