"""Batches of an epoch: the same rows over any number of ranks, and taken up again at the right one."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datamodules import sampling
from datamodules.errors import InputError
from datamodules.sampling import Batch, EpochBatchSampler, PlainLoader, ResumableLoader


def epoch(draws: int, size: int, world_size: int = 1, number: int = 0, seed: int = 0) -> list[list[Batch]]:
    """All batches of an epoch, by rank."""
    ranks = []
    for rank in range(world_size):
        sampler = EpochBatchSampler(draws, size, seed=seed, rank=rank, world_size=world_size)
        sampler.set_epoch(number)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        ranks.append(batches)
    return ranks


@pytest.mark.parametrize("draws", [16, 17, 31, 97, 100, 101, 103, 128])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_together_have_the_batches_of_one_process(draws: int, world_size: int) -> None:
    ranks = epoch(draws, 16, world_size, number=2)
    assert len({len(batches) for batches in ranks}) == 1
    [alone] = epoch(draws, 16, 1, number=2)
    seen = [np.sort(np.concatenate([batch.positions for batch in step])) for step in zip(*ranks, strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(draws))  # none lost, none twice
    for step, whole in enumerate(alone[: len(seen) - 1]):
        np.testing.assert_array_equal(seen[step], np.sort(whole.positions))
    shares = [len(batch.positions) for batches in ranks for batch in batches]
    assert min(shares) >= 2
    for step in zip(*ranks, strict=True):
        sizes = [len(batch.positions) for batch in step]
        assert max(sizes) - min(sizes) <= 1


def test_short_last_batch_joins_the_one_before() -> None:
    [batches] = epoch(33, 16)
    assert [len(batch.positions) for batch in batches] == [16, 17]
    [batches] = epoch(34, 16)
    assert [len(batch.positions) for batch in batches] == [16, 16, 2]


def test_order_is_fresh_in_every_epoch_and_equal_for_a_seed() -> None:
    orders = [
        np.concatenate([b.positions for b in epoch(64, 16, number=n, seed=s)[0]]) for n, s in ((0, 0), (1, 0), (0, 1))
    ]
    for one, other in itertools.combinations(orders, 2):
        assert (one != other).any()
    again = np.concatenate([batch.positions for batch in epoch(64, 16)[0]])
    np.testing.assert_array_equal(again, orders[0])


def test_seed_of_a_batch_is_its_own() -> None:
    seeds = [b.seed for number in range(3) for rank in epoch(64, 16, 2, number) for b in rank]
    assert len(set(seeds)) == len(seeds) == 3 * 2 * 4


def test_lightning_finds_and_sets_the_epoch() -> None:
    from lightning.fabric.utilities.data import _set_sampler_epoch

    sampler = EpochBatchSampler(64, 16, seed=0)
    loader = ResumableLoader(_Positions(64), batch_sampler=sampler, collate_fn=_keep)
    _set_sampler_epoch(loader, 5)
    assert sampler.epoch == 5


@pytest.mark.parametrize(
    ("draws", "size", "match"),
    [(100, 7, "--data.batch_size: must be at least 8, two per process, got 7"), (7, 16, "at least 8 rows")],
)
def test_arguments_are_checked(draws: int, size: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        EpochBatchSampler(draws, size, seed=0, world_size=4)


class _Positions(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> int:
        raise AssertionError

    def __getitems__(self, batch: Batch) -> torch.Tensor:
        return torch.from_numpy(batch.positions)


def _keep(batch: torch.Tensor) -> torch.Tensor:
    return batch


def loader_at(number: int, workers: int = 0) -> ResumableLoader:
    sampler = EpochBatchSampler(40, 8, seed=0)
    sampler.set_epoch(number)
    return ResumableLoader(_Positions(40), batch_sampler=sampler, collate_fn=_keep, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_goes_on_at_the_next_batch(done: int, workers: int) -> None:
    whole = [batch.tolist() for batch in loader_at(3)]
    first = loader_at(3, workers)
    batches = iter(first)
    for _ in range(done):
        next(batches)  # workers have fetched more than was handed out
    state = first.state_dict()
    assert set(map(type, state.values())) == {int}
    second = loader_at(0, workers)
    second.load_state_dict(state)
    assert len(second) == 5
    if done < 5:
        assert [batch.tolist() for batch in second] == whole[done:]
        assert [batch.tolist() for batch in second] == whole  # iterated again, from the start
    else:
        assert [batch.tolist() for batch in second] == [batch.tolist() for batch in loader_at(4)]


def test_batch_that_was_handed_out_but_not_trained_comes_again() -> None:
    loader = loader_at(0)
    loader._trained = lambda: 1
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict() == {"epoch": 0, "batch": 1}


def test_between_epochs_the_next_one_starts_at_its_first_batch() -> None:
    loader = loader_at(0)
    list(loader)
    loader.batch_sampler.set_epoch(1)  # type: ignore[union-attr]
    assert loader.state_dict() == {"epoch": 1, "batch": 0}
    loader.load_state_dict({"epoch": 1, "batch": 2})
    loader.batch_sampler.set_epoch(1)  # type: ignore[union-attr]  # as Lightning does after loading
    assert len(list(loader)) == 3


@pytest.mark.parametrize(("workers", "times"), [(0, 0), (1, 1)])
def test_memory_is_given_back_before_loading_processes_are_forked(
    workers: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(sampling, "give_memory_back", lambda: given.append(1))
    more = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = PlainLoader(range(8), batch_size=4, collate_fn=_keep, **more)  # type: ignore[arg-type]
    for _ in range(2):  # they stay for the second epoch
        assert list(loader) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(given) == times
