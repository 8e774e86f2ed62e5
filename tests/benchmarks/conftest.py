"""What the tests beside PyTorch share."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for one another are slow where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
