import threading
import time

import pytest
import torch

from pacx.models.ecg_inference import fast_features, side_by_side
from pacx.models.ecgfounder import EcgNet, EcgNetConfig

torch.set_num_threads(1)


@pytest.mark.parametrize("length", [5000, 1000, 997])
@pytest.mark.parametrize(
    "config",
    [
        EcgNetConfig(3, stem_width=16, widths=(16, 48, 48, 32), blocks=(2, 1, 2, 1)),
        EcgNetConfig(3, stem_width=16, widths=(16, 48, 48, 32), blocks=(2, 1, 2, 1), batch_norm=True, dropout=0.5),
        EcgNetConfig.named("small", num_classes=2),
        EcgNetConfig(0, stem_width=16, widths=(32,), blocks=(1,), kernel_size=15),
    ],
)
def test_the_fast_way_gives_the_features_of_the_network(config, length):
    torch.manual_seed(0)
    net = EcgNet(config)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    net.eval()
    x = torch.randn(3, 12, length)
    before = x.clone()
    with torch.inference_mode():
        torch.testing.assert_close(fast_features(net, x), net.features(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)  # what works in place must not reach the input


def test_the_published_size_agrees_too():
    torch.manual_seed(0)
    net, x = EcgNet().eval(), torch.randn(1, 12, 5000)
    with torch.inference_mode():
        expected = net.features(x)
        assert float((fast_features(net, x) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_a_network_in_training_keeps_its_own_way():
    net = EcgNet(EcgNetConfig(3, stem_width=16, widths=(16,), blocks=(1,), batch_norm=True)).train()
    x = torch.randn(2, 12, 100)
    fast_features(net, x)
    assert int(net.first_bn.num_batches_tracked) == 1  # the norms saw the batch, as `features` would have shown it


def test_results_come_in_order_whoever_is_done_first_and_few_are_under_way():
    taken, given = 0, 0

    def items():
        nonlocal taken
        for item in range(9):
            taken += 1
            assert taken - given <= 4
            yield item

    def work(item):
        time.sleep(0.01 if item % 2 == 0 else 0)
        return item, torch.get_num_threads(), threading.current_thread().name

    found = []
    for result in side_by_side(work, items(), threads=3):
        found.append(result)
        given += 1
    assert [item for item, _, _ in found] == list(range(9))
    assert {threads for _, threads, _ in found} == {1}
    assert all(name.startswith("pacx") for _, _, name in found)


def test_the_number_of_threads_is_given_back_also_after_an_error():
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            list(side_by_side(lambda item: 1 // item, [1, 0, 1], threads=2))
        later = []  # each thread has a setting of its own; those to come take the common one
        for ask in (lambda: torch.ones(2).sum(), lambda: later.append(torch.get_num_threads())):
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        assert [torch.get_num_threads(), *later] == [2, 2]
    finally:
        torch.set_num_threads(1)
