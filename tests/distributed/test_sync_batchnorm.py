"""BatchNorm across processes, against torch's own."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from embedlab.distributed.sync_batchnorm import SyncBatchNorm


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_synchronised_batch_norm_of_one_process_is_torchs_batch_norm(group_of_one):
    """Gradients, statistics and output, against the layer that torch has."""
    torch.manual_seed(0)
    torchs, ours = torch.nn.BatchNorm2d(5), SyncBatchNorm(5)
    for name in ("weight", "bias"):
        torch.nn.init.normal_(getattr(torchs, name))
    ours.load_state_dict(torchs.state_dict())
    x = (3 + torch.randn(6, 5, 4, 4)).requires_grad_()
    weights = torch.randn(6, 5, 4, 4)
    results = {}
    for layer in (torchs, ours):
        x.grad = None
        y = layer(x)
        (y * weights).sum().backward()
        results[layer] = [y, x.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()]
    for expected, mine in zip(results[torchs], results[ours], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
