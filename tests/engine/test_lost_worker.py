"""A data worker that dies is named, however the loader came to know of it."""

import os
import signal
import time
from multiprocessing.connection import wait

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from detrex.distributed.errors import MachineError
from detrex.engine.faults import explain


class _Slow(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.zeros(1)


def _explained(error: Exception) -> MachineError | None:
    return explain(error, "iteration 7", None, device=torch.device("cpu"))


def test_a_broken_connection_is_the_workers_death():
    """Even when somebody else, as here, has asked for its exit code before."""
    batches = iter(DataLoader(_Slow(), num_workers=2))
    worker = batches._workers[1]
    batches._try_get_data = lambda **_: _break(worker)
    with pytest.raises(ConnectionResetError) as caught:
        next(batches)
    assert f"data worker with pid {worker.pid} died at iteration 7: ended with exit code -9" in str(
        _explained(caught.value)
    )


def _break(worker):
    os.kill(worker.pid, signal.SIGKILL)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own would speak first
    try:
        wait([worker.sentinel])
        worker.join()
    finally:
        signal.signal(signal.SIGCHLD, handler)
    raise ConnectionResetError(104, "Connection reset by peer")


def test_a_connection_of_something_else():
    with pytest.raises(ConnectionResetError) as caught:
        raise ConnectionResetError(104, "Connection reset by peer")
    assert _explained(caught.value) is None


def test_an_error_that_a_living_worker_raised():
    batches = iter(DataLoader(_Slow(), num_workers=1, collate_fn=_refuse))
    with pytest.raises(RuntimeError, match="refused") as caught:
        next(batches)
    assert _explained(caught.value) is None


def _refuse(_):
    raise RuntimeError("refused")
