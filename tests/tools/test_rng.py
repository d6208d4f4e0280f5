import subprocess
import sys

import numpy as np
import pytest
import torch

from tools import rng


def test_seed_is_stable_between_processes():
    code = "from tools.rng import seed_of; print(seed_of(42, 'noise', 7))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == rng.seed_of(42, "noise", 7)


def test_different_keys_give_different_seeds():
    paths = [(1,), (-1,), (1, 1), (1, 11), (11, 1), (1, "1"),
             (1, "a", "b"), (1, "a/b"), (1, "a"), (1, "a", 0)]
    seeds = {rng.seed_of(*p) for p in paths}
    assert len(seeds) == len(paths) and all(0 <= s < 2**63 for s in seeds)


def test_numpy_and_torch_integers_are_the_same_key():
    assert rng.seed_of(1, np.int64(3)) == rng.seed_of(1, 3) == rng.seed_of(1, torch.tensor(3))


def test_a_float_is_no_key():
    with pytest.raises(TypeError):
        rng.seed_of(1, 0.5)


@pytest.mark.parametrize("draw", [rng.batch_randn, rng.batch_rand])
def test_a_sample_keeps_its_noise_in_any_batch(draw):
    whole = draw((3, 4), range(10), 0, "noise")
    torch.testing.assert_close(draw((3, 4), [7, 2], 0, "noise"), whole[[7, 2]], rtol=0, atol=0)
    torch.testing.assert_close(draw((3, 4), torch.tensor([7, 2]), 0, "noise"), whole[[7, 2]], rtol=0, atol=0)
    assert draw((3, 4), [], 0, "noise").shape == (0, 3, 4)


def test_moments_over_many_short_streams():
    # The first numbers of neighbouring streams must be as independent as those of one stream.
    x, u = rng.batch_randn((4,), range(20000), 5).double(), rng.batch_rand((4,), range(20000), 5).double()
    n = x.numel()
    assert abs(x.mean()) < 5 / n**0.5 and abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5 and u.min() >= 0 and u.max() < 1
    assert (torch.corrcoef(x.T) - torch.eye(4)).abs().max() < 5 / 20000**0.5


def test_draws_do_not_touch_the_global_generator():
    before = torch.get_rng_state()
    rng.randn((3,), 0), rng.rand((), 0), rng.generator(0), rng.numpy_rng(0)
    assert torch.equal(before, torch.get_rng_state())


def test_fork_is_deterministic_inside_and_restores_outside():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with rng.fork(1, "dropout", 3):
        first = torch.rand(5)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    with rng.fork(1, "dropout", 3):
        torch.testing.assert_close(torch.rand(5), first, rtol=0, atol=0)
    with rng.fork(1, "dropout", 4):
        assert not torch.equal(torch.rand(5), first)


def test_generator_feeds_torch_functions():
    a = torch.randperm(50, generator=rng.generator(0, "order", 1))
    assert torch.equal(a, torch.randperm(50, generator=rng.generator(0, "order", 1)))
    assert not torch.equal(a, torch.randperm(50, generator=rng.generator(0, "order", 2)))
