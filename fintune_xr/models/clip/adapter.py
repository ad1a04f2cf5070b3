"""CLIP from a folder in transformers' format: configuration, weights, tokenizer and preprocessing, all local."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, normalize
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from fintune_xr.errors import CheckpointError, CheckpointNotFoundError, FintuneValueError
from fintune_xr.models.checkpoints import load_strictly, load_weights_file
from fintune_xr.models.colours import N_COLOURS
from fintune_xr.provenance import file_sha256

CONFIG_FILE: Final = "config.json"
PREPROCESSOR_FILE: Final = "preprocessor_config.json"
TOKENIZER_FILES: Final = ("tokenizer.json", "vocab.json")
# Read beside the first of them where they are there, and tokens depend on each.
FURTHER_FILES: Final = (
    *TOKENIZER_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
WEIGHTS_FILES: Final = ("model.safetensors", "pytorch_model.bin")
# Written by another library, for networks that this one does not have.
OTHER_FILE: Final = "open_clip_config.json"


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP network with its tokenizer and its preprocessing.

    `sha256` is that of every file that is read: weights, tokenizer and settings. `former_sha256` is what releases made
    of the same folder that left out all files of the tokenizer but one.
    """

    network: Any
    tokenizer: Any
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    sha256: str
    former_sha256: str

    @property
    def scale(self) -> float:
        """What similarities are multiplied by before they become probabilities."""
        return float(self.network.logit_scale.detach().exp())

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (text, feature) of length 1.

        Raises FintuneValueError for a text that is longer than what the network reads: the rest of it would be lost.
        """
        longest = self.network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(self._device)
        for text, n_tokens in zip(texts, tokens["attention_mask"].sum(1).tolist(), strict=True):
            if n_tokens > longest:
                raise FintuneValueError(
                    f"{text!r} has {n_tokens} tokens, and this CLIP network reads up to {longest}; make it shorter"
                )
        found = self.network.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], return_dict=True
        )
        return _unit(found.pooler_output)

    @torch.no_grad()
    def of_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embeddings (image, feature) of length 1 of square colour images (colour, y, x)."""
        edge = int(self.network.config.vision_config.image_size)
        seen = torch.cat([_resized(image, edge) for image in images])
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.mean, self.sd))
        pixels = ((seen - mean) / sd).to(self._device)
        return _unit(self.network.get_image_features(pixel_values=pixels, return_dict=True).pooler_output)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.network.logit_scale.device
        return device


def load_clip(folder: str | Path, *, device: str) -> Clip:
    """The CLIP network in `folder` on `device`; nothing is looked up anywhere else.

    Raises CheckpointNotFoundError for a folder that is not there, CheckpointError for one that lacks a part of CLIP,
    has a damaged one, or holds another network.
    """
    folder = Path(folder)
    config = _config(folder)
    tokenizer_file = _first(folder, TOKENIZER_FILES, "tokenizer")
    weights = _first(folder, WEIGHTS_FILES, "weights")
    preprocessing = _json(folder / PREPROCESSOR_FILE, "preprocessing")
    mean, sd = (_of_colours(preprocessing, name, folder) for name in ("image_mean", "image_std"))
    if min(sd) <= 0:
        raise CheckpointError(f"{folder / PREPROCESSOR_FILE}: expected image_std above 0, found {list(sd)}")
    network = _built(lambda: CLIPModel(CLIPConfig(**config)), folder / CONFIG_FILE)
    load_strictly(network, _state(weights, network), source=str(weights))
    tokenizer = _built(lambda: AutoTokenizer.from_pretrained(str(folder), local_files_only=True), tokenizer_file)
    return Clip(network.to(device).eval(), tokenizer, mean, sd, *_digests(folder, tokenizer_file, weights))


def _digests(folder: Path, tokenizer_file: Path, weights: Path) -> tuple[str, str]:
    """Digest of all files that are read, by name, and the one of before."""
    former = (folder / CONFIG_FILE, folder / PREPROCESSOR_FILE, tokenizer_file, weights)
    further = (folder / name for name in FURTHER_FILES)
    of_file = {path.name: file_sha256(path) for path in (*former, *further) if path.is_file()}
    whole = "".join(f"{name} {digest}\n" for name, digest in sorted(of_file.items()))
    before = "".join(of_file[path.name] for path in former)
    return tuple(hashlib.sha256(text.encode()).hexdigest() for text in (whole, before))  # type: ignore[return-value]


def _built(make: Callable[[], Any], file: Path) -> Any:
    """What `make` makes of `file`. Raises CheckpointError where it cannot, for whichever reason."""
    try:
        return make()
    except Exception as error:
        # Libraries raise whatever they come upon, exceptions of no class of their own among it.
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{file} is not as CLIP has it ({told}). Copy the whole folder anew.") from error


def _of_colours(preprocessing: Mapping[str, Any], name: str, folder: Path) -> tuple[float, ...]:
    found = preprocessing.get(name)
    if not isinstance(found, list) or len(found) != N_COLOURS or not all(isinstance(one, int | float) for one in found):
        raise CheckpointError(
            f"{folder / PREPROCESSOR_FILE}: expected {name} of {N_COLOURS} numbers, found {found!r}. Copy the whole "
            "folder anew."
        )
    return tuple(float(one) for one in found)


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"no folder {folder}. Give the folder of a CLIP network in transformers' format.")
    if (folder / OTHER_FILE).is_file() and not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder} is of open_clip ({OTHER_FILE}), such as BiomedCLIP or CONCH, which cannot be used here. Give a "
            "CLIP network in transformers' format, such as CLIP or PLIP."
        )
    config = _json(folder / CONFIG_FILE, "configuration")
    if config.get("model_type") != "clip":
        raise CheckpointError(
            f"{folder}: expected model_type 'clip', found {config.get('model_type')!r}. Give a CLIP network, such as "
            "CLIP or PLIP."
        )
    return config


def _first(folder: Path, names: Sequence[str], what: str) -> Path:
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise CheckpointError(f"{folder} holds no {what} of CLIP ({' or '.join(names)}). Copy the whole folder.")
    return found[0]


def _json(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no {what} of CLIP ({path.name}). Copy the whole folder.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _state(weights: Path, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights by name, without the positions that older files hold and that are counted, not learnt."""
    state, known = load_weights_file(weights), network.state_dict()
    return {key: value for key, value in state.items() if key in known or not key.endswith(".position_ids")}


def _resized(image: NDArray[np.uint8], edge: int) -> torch.Tensor:
    pixels = torch.from_numpy(image)[None].float()
    # As CLIP was trained: bicubic, and smoothed where the image becomes smaller.
    resized = interpolate(pixels, (edge, edge), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 255) / 255


def _unit(features: torch.Tensor) -> NDArray[np.float32]:
    if not torch.isfinite(features).all():
        raise CheckpointError("CLIP gives embeddings that are no numbers; its weights are damaged, so copy them anew")
    return np.asarray(normalize(features.float(), dim=-1).cpu().numpy())
