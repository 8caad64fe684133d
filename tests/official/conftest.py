from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The commands set torch's number of threads, and these small models run best on one."""
    yield
    torch.set_num_threads(1)
