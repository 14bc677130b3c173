"""The random bits of stochastic rounding: equal everywhere, and random by the usual statistics."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from optgen.reference import packing
from optgen.runtime import keys, torch_ops
from optgen.runtime.layout import Codes, Shard
from tests.conftest import interpreted

LIMIT = 5.0  # standard deviations; by chance about one test in a million exceeds it
SHAPE = (1024, 1024)


def draw(key: int, t: int, shape: tuple[int, ...] = SHAPE, salt: int = 0, block: int = 128) -> np.ndarray:
    words = keys.step_words(torch.tensor([key], dtype=torch.int64), torch.tensor([float(t)], dtype=torch.float64))[0]
    return torch_ops.random_bits(keys.Key(words), shape, block, salt).numpy().reshape(-1)


def chi_square(counts: np.ndarray) -> float:
    """Standard deviations by which counts that should be equal are not."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float((np.sum((counts - expected) ** 2) / expected - freedom) / np.sqrt(2 * freedom))


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two samples, in standard deviations."""
    return float(np.corrcoef(x.astype(np.float64), y.astype(np.float64))[0, 1] * np.sqrt(x.size))


KEYS = [0, 1, -1, 2**63 - 1, 123456789]


@pytest.mark.parametrize("shape", [(256,), (3, 128), (40, 135), (7, 1000), (2, 3, 129), (64, 64)])
def test_torch_and_the_reference_agree(shape: tuple[int, ...]) -> None:
    for key, t, salt in itertools.product(KEYS, (1, 2, 100_000), (0, 1, 5)):
        words = keys.step_words(torch.tensor([key], dtype=torch.int64), torch.tensor([float(t)], dtype=torch.float64))[0]
        expected = packing.step_words(key % 2**64, t)
        assert [int(word) % 2**32 for word in words] == list(expected)
        ours = torch_ops.random_bits(keys.Key(words), shape, 128, salt)
        assert np.array_equal(ours.numpy(), packing.random_bits(expected, shape, Codes(2, 128, ()), salt))


def test_triton_and_torch_agree() -> None:
    pytest.importorskip("triton")
    assert int(interpreted("-m", "tests.triton_bits")) > 10_000


def test_an_element_has_its_bits_whatever_its_row() -> None:
    """Bits belong to the element's place in the parameter: a shard of whole rows sees what one process would."""
    flat = draw(7, 3, (4096,))
    assert np.array_equal(draw(7, 3, (32, 128)), flat)
    assert np.array_equal(draw(7, 3, (16, 2, 128)), flat)
    key = keys.Key(torch.tensor([1, 2], dtype=torch.int32))
    odd = torch_ops.random_bits(key, (30, 136), 128, 0)
    flat = torch_ops.random_bits(key, (4080,), 128, 0)
    assert torch.equal(odd.reshape(30, -1)[:, :136].reshape(-1), flat.reshape(-1)[:4080])


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("size", [3, 128, 300])
def test_a_shard_has_the_bits_of_its_elements(dim: int, size: int) -> None:
    words = torch.tensor([3, 4], dtype=torch.int32)
    shape, parts = (4, 6, size), 3 if size == 3 else 2
    whole = torch_ops.random_elements(keys.Key(words), shape, 1)
    length = shape[dim] // parts
    for part in range(parts):
        cut = list(shape)
        cut[dim] = length
        unit = int(np.prod(shape[dim + 1 :], dtype=np.int64))
        shard = Shard(part * length * unit, length * unit, (shape[dim] - length) * unit)
        key = keys.Key(words, shard if dim else shard._replace(gap=0))
        mine = whole.narrow(dim, part * length, length)
        assert torch.equal(torch_ops.random_elements(key, cut, 1), mine)
        if size >= 128 and dim < 2:
            rows = torch_ops.random_bits(key, cut, 128, 1).reshape(*cut[:2], -1)[..., :size]
            assert torch.equal(rows, mine)


@pytest.mark.parametrize("key", KEYS)
def test_uniform(key: int) -> None:
    """All 16 bits over all elements, and over every fourth."""
    every = draw(key, 1)
    for bits in (every, *(every[place::4] for place in range(4))):
        assert abs(chi_square(np.bincount(bits & 255, minlength=256))) < LIMIT
        assert abs(chi_square(np.bincount(bits, minlength=65536))) < LIMIT
        for bit in range(16):
            ones = np.count_nonzero(bits >> bit & 1)
            assert abs(ones - bits.size / 2) / np.sqrt(bits.size / 4) < LIMIT


@pytest.mark.parametrize("key", KEYS)
def test_neighbours_are_independent(key: int) -> None:
    bits = draw(key, 1)
    for lag in (1, 2, 3, 4, 5, 8, 127, 128, 1024):
        assert abs(correlation(bits[:-lag], bits[lag:])) < LIMIT, lag
    pairs = (bits[:-1] >> 12) * 16 + (bits[1:] >> 12)
    assert abs(chi_square(np.bincount(pairs, minlength=256))) < LIMIT
    quads = bits.reshape(-1, 4) >> 14
    assert abs(chi_square(np.bincount(quads @ np.array([64, 16, 4, 1]), minlength=256))) < LIMIT


def test_what_one_hash_serves_is_independent() -> None:
    """Four elements and all states share a hash: of any two, high bytes occur in all pairs and thresholds are passed as by chance."""
    pieces = [draw(11, 4, salt=salt)[place::4] for salt in range(4) for place in range(4)]
    thresholds = np.random.default_rng(0).integers(1, 65536, (6, 2))
    for x, y in itertools.combinations(pieces, 2):
        assert abs(correlation(x, y)) < LIMIT
        assert abs(chi_square(np.bincount((x >> 8) * 256 + (y >> 8), minlength=65536))) < LIMIT
        for below_x, below_y in thresholds:
            expected = below_x * below_y / 2**32
            both = np.count_nonzero((x < below_x) & (y < below_y))
            assert abs(both / x.size - expected) < LIMIT * np.sqrt(expected * (1 - expected) / x.size)


def test_steps_keys_and_states_are_independent() -> None:
    base = draw(5, 10)
    others = [draw(5, 11), draw(5, 9), draw(6, 10), draw(4, 10), draw(5 + 2**32, 10), draw(5, 10, salt=1), draw(5, 10, salt=2)]
    for other in others:
        assert abs(correlation(base, other)) < LIMIT
        assert abs(chi_square(np.bincount((base ^ other) >> 8, minlength=256))) < LIMIT
        assert abs(np.mean(base == other) * 65536 - 1) < 1


def test_two_streams_are_not_one_stream_permuted() -> None:
    """An index XORed with the key alone would hand out the same pool of numbers each time."""
    first, second = (np.sort(draw(key, 1, (64, 1024))) for key in (1, 2))
    assert np.mean(first == second) < 0.9


def test_keys_depend_on_seed_and_name() -> None:
    drawn = {int(keys.draw_key(seed, name)) for seed in range(20) for name in ("a", "b", "layer.0.weight", "0", "1")}
    assert len(drawn) == 100
    assert keys.draw_key(3, "x") == keys.draw_key(3, "x")
