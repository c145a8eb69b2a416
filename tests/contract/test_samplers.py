"""Samplers: the stream of indices for a seed, and its shares."""

# The global generator is where default seeds come from.
# ruff: noqa: NPY002
from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm


def _take(sampler, number: int) -> list[int]:
    return list(islice(sampler, number))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_training_sampler_is_a_stream_of_permutations() -> None:
    generator = _generator(5)
    expected = [i for _ in range(3) for i in torch.randperm(7, generator=generator).tolist()]
    assert _take(TrainingSampler(7, seed=5), 21) == expected
    assert _take(TrainingSampler(3, shuffle=False, seed=5), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_training_sampler_takes_its_seed_from_numpy() -> None:
    np.random.seed(1)
    stream = _take(TrainingSampler(9), 20)
    np.random.seed(1)
    assert stream == _take(TrainingSampler(9, seed=int(np.random.randint(2**31))), 20)


def test_processes_share_the_stream(monkeypatch) -> None:
    whole = _take(TrainingSampler(5, seed=2), 20)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        assert _take(TrainingSampler(5, seed=2), 10) == whole[rank::2]


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)])
def test_bad_sizes(size, error) -> None:
    with pytest.raises(error):
        TrainingSampler(size)


def test_random_subset() -> None:
    subset = torch.randperm(10, generator=_generator(7))[:4].tolist()
    stream = _take(RandomSubsetTrainingSampler(10, 0.4, seed_shuffle=3, seed_subset=7), 8)
    order = torch.randperm(4, generator=_generator(3)).tolist()
    assert stream[:4] == [subset[i] for i in order]
    assert set(stream[4:]) == set(subset)
    assert _take(RandomSubsetTrainingSampler(10, 0.4, shuffle=False, seed_subset=7), 4) == subset
    with pytest.raises(AssertionError):
        RandomSubsetTrainingSampler(10, 1.5)


def test_repeat_factors() -> None:
    factors = torch.tensor([1.0, 2.0, 0.5])
    generator = _generator(0)
    rounded_up = torch.rand(3, generator=generator) < torch.tensor([0.0, 0.0, 0.5])
    epoch = torch.tensor([0, 1, 1] + [2] * int(rounded_up[2]))
    expected = epoch[torch.randperm(len(epoch), generator=generator)].tolist()
    assert _take(RepeatFactorTrainingSampler(factors, seed=0), len(expected)) == expected
    counts = np.bincount(_take(RepeatFactorTrainingSampler(factors, seed=0, shuffle=False), 350))
    assert counts / counts[0] == pytest.approx([1, 2, 0.5], abs=0.15)


def test_repeat_factors_from_frequencies() -> None:
    images = [{"annotations": [{"category_id": c} for c in categories]} for categories in ([0], [0, 1], [0], [])]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    assert factors(images, 0.5).tolist() == pytest.approx([1, 2**0.5, 1, 1])
    assert factors(images, 0.5, sqrt=False).tolist() == pytest.approx([1, 2, 1, 1])


@pytest.mark.parametrize(("size", "world_size"), [(10, 3), (2, 4), (8, 2), (1, 1)])
def test_inference_shares_cover_everything_once(size, world_size, monkeypatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = InferenceSampler(size)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    assert [i for share in shares for i in share] == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(AssertionError):
        InferenceSampler(0)
