"""SOLO from its paper's formulas, in float64, without a line of the compiler: the second oracle for specs/solo.yaml.

Blocks are consecutive elements of a row, padded with zeros. m: dynamic exponent, nearest level, scale of largest
magnitude. v: levels scale*base**k, k = 0..n, with base = (quantile/scale)**(1/n), rounded in the exponent with dither u.
"""

from __future__ import annotations

import numpy as np

BLOCK = 128
POSITIVE = {  # levels of m above zero and below 1, by bits; each has its negative
    2: (0.55,),
    3: (0.055, 0.325, 0.775),
    4: (0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875),
}
M_LEVELS = {bits: np.array([*(-x for x in reversed(half)), 0, *half, 1]) for bits, half in POSITIVE.items()}


def blocks_of(x: np.ndarray) -> np.ndarray:
    """Rows of at least one block, cut into blocks: (rows, blocks per row, 128)."""
    shape, length = list(x.shape), 1
    while length < BLOCK:
        length *= shape.pop()
    rows = x.reshape(-1, length)
    return np.pad(rows, ((0, 0), (0, -length % BLOCK))).reshape(rows.shape[0], -1, BLOCK)


def elements_of(blocks: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The inverse of `blocks_of`."""
    length = like.size // blocks.shape[0]
    return blocks.reshape(blocks.shape[0], -1)[:, :length].reshape(like.shape)


def decode_m(codes: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    return M_LEVELS[bits][codes] * scale


def encode_m(x: np.ndarray, bits: int, published: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales, and which elements lie so near to a border that float32 may choose the other side."""
    place = np.argmax(np.abs(x), axis=-1)[..., None]
    extreme = np.take_along_axis(x, place, axis=-1)
    scale = np.maximum(np.abs(extreme), 1e-12) if published else extreme
    y = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)
    distance = np.abs(y[..., None] - M_LEVELS[bits])
    nearest = np.sort(distance, axis=-1)
    return np.argmin(distance, axis=-1), scale, nearest[..., 1] - nearest[..., 0] < 1e-5


def decode_v(codes: np.ndarray, scale: np.ndarray, base: np.ndarray) -> np.ndarray:
    return scale * base**codes


def encode_v(x: np.ndarray, u: np.ndarray, bits: int, published: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales, bases, and which elements lie near to a border; u is uniform in [0, 1)."""
    n = 2**bits - 1
    scale = x.max(axis=-1, keepdims=True)
    if published:
        scale = np.maximum(scale, 1e-12)
        low = np.quantile(x, 0.1, axis=-1, keepdims=True)
    else:
        low = np.empty_like(scale)
        for index in np.ndindex(x.shape[:-1]):
            positive = np.sort(x[index][x[index] > 0])
            low[index] = positive[int(np.float32(0.1) * np.float32(positive.size - 1))] if positive.size else scale[index]
    safe = np.where(scale > 0, scale, 1)
    base = np.where(scale > 0, (np.maximum(low, 1e-300) / safe) ** (1 / n), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        position = np.where((x > 0) & (base < 1), np.log(x / safe) / np.log(base), np.where(base < 1, np.inf, n))
    code = np.clip(np.floor(np.minimum(position, 1e9) + u), 0, n)
    near = np.abs(position + u - np.round(np.minimum(position, 1e9) + u)) < 1e-4
    return code.astype(int), scale, base, near | (base >= 1)


def step(p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int, hyper: dict[str, float]) -> tuple[np.ndarray, ...]:
    """p, m and v after the step, before anything is encoded; with `center` 1, AdaBelief's v, of the surprise g - m."""
    p = p * (1 - hyper["lr"] * hyper["weight_decay"])
    m = hyper["beta1"] * m + (1 - hyper["beta1"]) * g
    v = hyper["beta2"] * v + (1 - hyper["beta2"]) * (g - hyper["center"] * m) ** 2
    m_hat, v_hat = m / (1 - hyper["beta1"] ** t), v / (1 - hyper["beta2"] ** t)
    return p - hyper["lr"] * m_hat / (np.sqrt(v_hat) + hyper["eps"]), m, v
