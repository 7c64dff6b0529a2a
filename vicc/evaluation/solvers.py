"""Classifiers on features, trained in seconds. Each takes the training features (N, D), their class
numbers (N,), the test features (M, D) and the number of classes, and gives (M, C): how probable
each class is.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from vicc.progress import progress
from vicc.retrieval import search

Solver = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]

# The published probe's, on 4 GPUs of 32 videos each.
_EPOCHS, _MILESTONES, _BATCH_SIZE = 100, (60, 80), 128
_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.1, 0.9, 1e-3
_PENALTIES = [10.0**power for power in range(-5, 4)]  # times the mean variance of a feature and the number of videos


def nearest_vote(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_classes: int, *, k: int, temperature: float
) -> torch.Tensor:
    """The k nearest training videos vote, each with exp(similarity / temperature) (Wu et al., CVPR
    2018, section 3.4).

    The training videos' mean is taken out of all features, so that nothing depends on which others
    are tested.
    """
    mean = train.mean(dim=0)
    similarities, places = search(F.normalize(test - mean, dim=1), F.normalize(train - mean, dim=1), k=k)
    # Less the largest: only the votes' proportions count, and exp must not overflow.
    votes = torch.exp((similarities - similarities[:, :1]).double() / temperature)
    votes = votes.clamp(min=torch.finfo(votes.dtype).tiny)  # a vote that counts for nearly nothing is still one
    counted = torch.zeros(len(test), num_classes, dtype=torch.float64).scatter_add_(1, labels[places], votes)
    return counted / counted.sum(dim=1, keepdim=True)


def sgd_classifier(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_classes: int, *, description: str = "probe"
) -> torch.Tensor:
    """BatchNorm and a linear layer on unit-length features, with the published schedule: SGD 0.1,
    100 epochs.

    Weights start at zero, and epochs are ordered by a fixed seed, so nothing is left to chance.
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    norm, linear = nn.BatchNorm1d(train.shape[1]), nn.Linear(train.shape[1], num_classes)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    weights = [*norm.parameters(), *linear.parameters()]
    optimizer = torch.optim.SGD(weights, _LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(_MILESTONES), 0.1)
    generator = torch.Generator().manual_seed(0)
    batch_size = min(_BATCH_SIZE, len(train))
    with progress(description, total=_EPOCHS, unit="epochs") as advance:
        for _ in range(_EPOCHS):
            order = torch.randperm(len(train), generator=generator)
            for batch in order[: len(train) // batch_size * batch_size].split(batch_size):
                optimizer.zero_grad()
                # BatchNorm needs two videos to know a deviation.
                normed = norm(train[batch]) if batch_size > 1 else train[batch]
                F.cross_entropy(linear(normed), labels[batch]).backward()
                optimizer.step()
            schedule.step()
            advance(1, "")
    norm.eval()
    with torch.no_grad():
        return torch.softmax(linear(norm(test) if batch_size > 1 else test), dim=1).double()


def ridge_classifier(
    train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_classes: int, *, folds: Sequence[int]
) -> torch.Tensor:
    """Least squares on the classes with a penalty on the weights, in closed form, in float64.

    The penalty is the one, of nine, under which most training videos are classified right when
    their fold is left out; of equally good ones the largest. What comes out estimates the classes'
    probabilities: the numbers of a video sum to 1, but may leave 0 to 1.

    Args:
        folds: of each training video; groups must not straddle them.
    """
    train, test = F.normalize(train, dim=1).double(), F.normalize(test, dim=1).double()
    targets = F.one_hot(labels, num_classes).double()
    fold_of = torch.tensor(folds)
    right = torch.zeros(len(_PENALTIES), dtype=torch.long)
    for fold in fold_of.unique():
        left_out = fold_of == fold
        for number, scores in enumerate(_ridge(train[~left_out], targets[~left_out], train[left_out], _PENALTIES)):
            right[number] += (scores.argmax(1) == labels[left_out]).sum()
    best = max(number for number, count in enumerate(right.tolist()) if count == int(right.max()))
    return _ridge(train, targets, test, [_PENALTIES[best]])[0]


def _ridge(
    train: torch.Tensor, targets: torch.Tensor, test: torch.Tensor, penalties: Sequence[float]
) -> list[torch.Tensor]:
    """Scores (M, C) for each penalty; one decomposition serves all."""
    mean, share = train.mean(0), targets.mean(0)
    x, y = train - mean, targets - share
    dual = len(x) < x.shape[1]  # whichever of N x N and D x D is smaller
    values, vectors = torch.linalg.eigh(x @ x.t() if dual else x.t() @ x)
    unit = max(float(x.square().sum()) / x.shape[1], torch.finfo(x.dtype).tiny)
    known = vectors.t() @ (y if dual else x.t() @ y)
    side = (test - mean) @ (x.t() @ vectors if dual else vectors)
    return [side @ (known / (values.clamp(min=0) + penalty * unit)[:, None]) + share for penalty in penalties]
