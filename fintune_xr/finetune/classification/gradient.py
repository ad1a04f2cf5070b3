"""Linear and one-layer heads by AdamW, in epochs over stored features."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fintune_xr.finetune.classification.features import Floats, Labelled, participants_balanced_accuracy
from fintune_xr.finetune.classification.loss import weighted_loss
from fintune_xr.finetune.classification.probe_settings import ProbeSettings
from fintune_xr.finetune.schedules import parameter_groups, warmup_cosine
from fintune_xr.seeds import stream

Fitted = tuple[dict[str, NDArray[Any]], dict[str, Any]]


def linear_head(width: int, n_classes: int) -> torch.nn.Linear:
    """A linear layer that begins at 0."""
    head = _empty(width, n_classes)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def mlp_head(width: int, n_classes: int, *, hidden: int, dropout: float, seed: int) -> torch.nn.Sequential:
    """Linear, ReLU, dropout, linear; the first layer drawn by `seed` (He), the last begins at 0."""
    first = _empty(width, hidden)
    drawn = stream(seed, "hidden layer").normal(scale=np.sqrt(2 / width), size=(hidden, width))
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(drawn))
        first.bias.zero_()
    return torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Dropout(dropout), linear_head(hidden, n_classes))


def fit_linear(
    train: Labelled, weights: Floats, val: Labelled | None, choice: Any, settings: ProbeSettings, n_classes: int
) -> Fitted:
    """`weight` (class, feature) and `bias` (class,) of the epoch that is best on `val`, or of the last one."""
    head = linear_head(train.value.shape[1], n_classes)
    facts = _learn(head, train, weights, val, float(choice), settings)
    return {"weight": _array(head.weight), "bias": _array(head.bias)}, facts


def fit_mlp(
    train: Labelled, weights: Floats, val: Labelled | None, choice: Any, settings: ProbeSettings, n_classes: int
) -> Fitted:
    """The same with `hidden_weight` (hidden, feature) and `hidden_bias` (hidden,) before."""
    width = train.value.shape[1]
    head = mlp_head(width, n_classes, hidden=settings.hidden, dropout=settings.dropout, seed=settings.seed)
    facts = _learn(head, train, weights, val, float(choice), settings)
    named = {"0.weight": "hidden_weight", "0.bias": "hidden_bias", "3.weight": "weight", "3.bias": "bias"}
    return {name: _array(head.state_dict()[key]) for key, name in named.items()}, facts


def _learn(
    head: torch.nn.Module, train: Labelled, weights: Floats, val: Labelled | None, decay: float, settings: ProbeSettings
) -> dict[str, Any]:
    """Trains `head` and leaves it with the weights of its best epoch; what is known of that."""
    x, y, w = _tensor(train.value), torch.from_numpy(train.label), _tensor(weights)
    groups = parameter_groups(
        head, (), learning_rate=settings.learning_rate, encoder_learning_rate=0, weight_decay=decay
    )
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    n_steps = -(-len(train) // settings.batch_size)
    factor = warmup_cosine(
        settings.epochs * n_steps, n_warmup=round(settings.warmup_epochs * n_steps), final=0.0
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    best = _Best(head, val, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(settings.seed, "dropout").integers(2**63)))
        for epoch in range(settings.epochs):
            head.train()
            order = torch.from_numpy(stream(settings.seed, "order", epoch).permutation(len(train)))
            for batch in torch.split(order, settings.batch_size):
                optimizer.zero_grad()
                weighted_loss(head(x[batch]), y[batch], w[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            if best.is_over(epoch):
                break
    return best.restored()


class _Best:
    """The epoch with the highest balanced accuracy of val's participants; without val, the last."""

    def __init__(self, head: torch.nn.Module, val: Labelled | None, settings: ProbeSettings) -> None:
        self.head, self.val, self.settings = head, val, settings
        self.epoch, self.score, self.state = 0, -np.inf, None if val is None else copy.deepcopy(head.state_dict())

    def is_over(self, epoch: int) -> bool:
        """Looks at the head after an epoch; whether it has not gained for too long."""
        if self.val is None:
            self.epoch = epoch
            return False
        self.head.eval()
        with torch.inference_mode():
            logits = self.head(_tensor(self.val.value)).numpy()
        score = participants_balanced_accuracy(logits, self.val)
        if score >= self.score + self.settings.min_gain:
            self.epoch, self.score, self.state = epoch, score, copy.deepcopy(self.head.state_dict())
        return epoch - self.epoch >= self.settings.patience

    def restored(self) -> dict[str, Any]:
        """Puts the best weights back."""
        if self.state is None:
            return {"epoch": self.epoch}
        self.head.load_state_dict(self.state)
        return {"epoch": self.epoch, "val_balanced_accuracy": float(self.score)}


def _empty(n_inputs: int, n_outputs: int) -> torch.nn.Linear:
    """A layer for which nothing is drawn."""
    with torch.device("meta"):
        layer = torch.nn.Linear(n_inputs, n_outputs)
    return layer.to_empty(device="cpu")


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def _array(values: torch.Tensor) -> NDArray[Any]:
    return values.detach().numpy().astype(np.float64)
