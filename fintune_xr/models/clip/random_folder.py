"""A CLIP network of some ten thousand random parameters, which knows nothing: it shows how a folder is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from transformers.utils import logging

from fintune_xr.models.clip.adapter import PREPROCESSOR_FILE

_START: Final = "<|startoftext|>"
_END: Final = "<|endoftext|>"
# Nearly the means and standard deviations that CLIP was trained with.
_COLOURS: Final = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


def write_random_clip(folder: Path, texts: Sequence[str], *, seed: int = 0) -> Path:
    """The folder of such a network, in the form that transformers writes; its tokenizer is made of `texts`."""
    tokenizer = _tokenizer(texts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CLIPModel(_config(tokenizer))
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_START, eos_token=_END, pad_token=_END
    ).save_pretrained(folder)
    (folder / PREPROCESSOR_FILE).write_text(json.dumps(_COLOURS))
    return folder


def _tokenizer(texts: Sequence[str]) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token=_END))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [_START, _END]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(token, tokenizer.token_to_id(token)) for token in special]
    )
    return tokenizer


def _config(tokenizer: Any) -> Any:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = tokenizer.token_to_id(_END)
    return CLIPConfig(
        text_config={
            **small, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 32,
            "bos_token_id": tokenizer.token_to_id(_START), "eos_token_id": end, "pad_token_id": end,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
