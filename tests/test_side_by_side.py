import threading

import pytest
import torch

from pacx.side_by_side import map_side_by_side


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_items_share_the_threads_the_longest_begin_first_and_the_order_stays():
    started, lock = [], threading.Lock()

    def compute(item):
        with lock:
            started.append(item)
        return item, torch.get_num_threads()

    found = map_side_by_side(compute, [3, 9, 1, 5, 7], size=float, label="test", unit="item")
    assert found == [(item, 1) for item in (3, 9, 1, 5, 7)]
    assert started[0] == 9 and sorted(started) == [1, 3, 5, 7, 9]
    assert map_side_by_side(compute, [1, 2], size=float, label="test", unit="item") == [(1, 2), (2, 2)]
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("threads")
def test_an_error_comes_out_and_the_threads_come_back():
    def fail(item):
        raise ValueError(item)

    with pytest.raises(ValueError, match="2"):
        map_side_by_side(fail, [2], size=float, label="test", unit="item")
    assert torch.get_num_threads() == 4
