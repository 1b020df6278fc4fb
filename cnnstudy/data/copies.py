"""Find near-duplicates: pictures re-saved, resized, recompressed, slightly cropped, mirrored or brightened.

Works on thumbnails of SIZE pixels, in two steps. A description of the lowest frequencies proposes for each picture the
few others that are most like it, itself mirrored included. Each proposal is then checked: one thumbnail is moved and
scaled onto the other (image registration by Gauss-Newton steps, Lucas and Kanade 1981), and the details of both must
correlate in all three colours. Large areas of light and dark do not count, because many photos share them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from cnnstudy.data.decoder_pool import Progress
from cnnstudy.system.processes import count_cores

#: Part of the address of found copies: raise it when others would be found.
COPIES_VERSION = 2
#: Pixels of a thumbnail.
SIZE = 32
#: Correlation of the details from which two pictures are copies. `python benchmarks/copies.py` measures what it finds.
LEAST_CORRELATION = 0.95
#: Small grey pictures are registered, first blurred, then sharp, each in so many steps, and dropped if their details
#: correlate no better. Two steps are enough to drop nearly all that are no copies; copies correlate with 0.85 by then.
_STAGES = ((1, 2, 0.7), (0, 4, 0.7))
#: At most this many others are proposed for each picture, if their descriptions are at least so similar.
_MOST_PROPOSED, _LEAST_SIMILARITY = 4, 0.4
_FREQUENCIES = 8
#: The data set's mean description counts like those of this many pictures against it.
_MEAN_WEIGHT = 50
#: Standard deviation of details (of 255) that are not trusted: rounding and compression.
_NOISE = 0.5
#: Brighter pixels may have been cut off by brightening, and do not count, if the rest is at least this share.
_WHITE, _LEAST_CLEAR = 240, 0.3
#: A copy has at most so many times the contrast of the other.
_MOST_CONTRAST = 2.0
#: The largest shift and change of scale, as a share of half the height or width.
_LARGEST_MOVE = 0.12
_ROWS, _COLUMNS, _PAIRS = 1024, 8192, 256  # at a time, so that memory stays flat
_PART = 128  # of a row, of which the maximum is taken

Array = np.ndarray[Any, np.dtype[Any]]


def find_copies(thumbnails: Array, progress: Progress) -> list[tuple[int, int]]:
    """Return pairs (i, j), i < j, of pictures that are near-duplicates of each other, sorted.

    Of many copies of one picture not all pairs are returned, but enough to connect them.

    Args:
        thumbnails: [n, SIZE, SIZE, 3] uint8; may be a memory map.
    """
    if not len(thumbnails):
        return []
    found: set[tuple[int, int]] = set()
    with ThreadPoolExecutor(min(4, count_cores())) as pool:
        pairs = _propose(*_describe(thumbnails), pool)
        chunks = [pairs[start : start + _PAIRS] for start in range(0, len(pairs), _PAIRS)]
        for done, copies in enumerate(pool.map(lambda chunk: _check(thumbnails, chunk), chunks), 1):
            found.update(copies)
            progress("looking for copies", done, len(chunks))
    return sorted(found)


def _check(thumbnails: Array, pairs: Array) -> list[tuple[int, int]]:
    """Return those of the proposed pairs [n, 3] (picture, picture, whether one is mirrored) that are copies."""
    one, other = _as_floats(thumbnails[pairs[:, 0]]), _as_floats(thumbnails[pairs[:, 1]])
    other = np.where(pairs[:, 2, None, None, None] == 1, other[..., ::-1], other)
    alike, near = _are_alike(one, other)
    if (turned := near & ~alike).any():  # it may be the other one that is cropped
        alike[turned], _ = _are_alike(other[turned], one[turned])
    return [(int(i), int(j)) for i, j, _ in pairs[alike]]


def _as_floats(thumbnails: Array) -> Array:
    return thumbnails.transpose(0, 3, 1, 2).astype(np.float32)  # [n, 3, SIZE, SIZE]


# ---- proposals


def _propose(plain: Array, mirrored: Array, pool: ThreadPoolExecutor) -> Array:
    """Return pairs of pictures that may be copies, [n, 3]: two pictures in order, and whether one is mirrored."""
    count, codes = len(plain), []
    for picture, other in pool.map(partial(_nearest, plain, mirrored), range(0, count, _ROWS)):
        flipped, other = np.divmod(other, count)
        codes.append((np.minimum(picture, other) * count + np.maximum(picture, other)) * 2 + flipped)
    pairs, flipped = np.divmod(np.unique(np.concatenate(codes)), 2)
    first, second = np.divmod(pairs, count)
    return np.stack([first, second, flipped], axis=1)[first != second]


def _describe(thumbnails: Array) -> tuple[Array, Array]:
    """Return descriptions of length 1 [n, 63] float32, as they are and mirrored: the lowest frequencies of brightness.

    Frequencies are weighted so that all count alike (in photos their amplitude falls with the frequency), and what the
    pictures of the data set have in common is subtracted.
    """
    place, frequency = np.arange(SIZE), np.arange(_FREQUENCIES)
    cosines = np.cos(np.pi * (2 * place + 1) * frequency[:, None] / (2 * SIZE))  # [8, SIZE]
    weights = np.hypot(*np.meshgrid(frequency, frequency)).ravel()[1:]
    described = np.empty((len(thumbnails), len(weights)))
    for start in range(0, len(thumbnails), _COLUMNS):
        grey = thumbnails[start : start + _COLUMNS] @ np.ones(3)
        described[start : start + _COLUMNS] = (cosines @ grey @ cosines.T).reshape(len(grey), -1)[:, 1:] * weights
    described = _normalise(described)
    sign = np.tile(np.where(frequency % 2, -1.0, 1.0), _FREQUENCIES)[1:]  # odd horizontal waves change it in a mirror
    mean = (described + described * sign).mean(axis=0) / 2 * len(described) / (len(described) + _MEAN_WEIGHT)
    described = _normalise(described - mean)
    return described.astype(np.float32), (described * sign).astype(np.float32)


def _normalise(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # rounded, so that the order of sums, which differs between machines, decides nothing
    return np.round(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-6), 6)


def _nearest(plain: Array, mirrored: Array, start: int) -> tuple[Array, Array]:
    """Return pictures from `start` on, and for each the others that are most like it, or like its mirror image.

    A mirrored other has its number plus n.
    """
    rows = plain[start : start + _ROWS]
    bar = np.full(len(rows), _LEAST_SIMILARITY, np.float32)
    row, other, similarity = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    for offset, columns in ((0, plain), (len(plain), mirrored)):
        for first in range(0, len(columns), _COLUMNS):
            tile = rows @ columns[first : first + _COLUMNS].T
            own = np.arange(len(rows)) + start - first
            inside = (own >= 0) & (own < tile.shape[1])
            tile[np.flatnonzero(inside), own[inside]] = -1
            # in a flat array numpy finds the few that are true ten times as fast
            i, j = np.divmod(np.flatnonzero((tile >= _cutoffs(tile, bar)[:, None]).ravel()), tile.shape[1])
            row, other = np.concatenate([row, i]), np.concatenate([other, j + first + offset])
            similarity = np.concatenate([similarity, tile[i, j]])
            order = np.lexsort((other, -similarity, row))
            row, other, similarity = row[order], other[order], similarity[order]
            rank = np.arange(len(row)) - np.searchsorted(row, row)
            full = rank == _MOST_PROPOSED - 1
            bar[row[full]] = similarity[full]
            kept = rank < _MOST_PROPOSED
            row, other, similarity = row[kept], other[kept], similarity[kept]
    return row + start, other


def _cutoffs(tile: Array, bar: Array) -> Array:
    """Return for each row a number that at least its _MOST_PROPOSED largest reach, above the bar; few others do.

    That is the smallest of the largest maxima of parts of the row.
    """
    above = np.nextafter(bar, np.float32(np.inf))
    parts = tile.shape[1] // _PART
    if parts < _MOST_PROPOSED:
        return above
    maxima = tile[:, : parts * _PART].reshape(len(tile), parts, _PART).max(axis=2)
    least = np.partition(maxima, parts - _MOST_PROPOSED, axis=1)[:, parts - _MOST_PROPOSED]
    return np.maximum(above, least)


# ---- the check


def _are_alike(moved: Array, fixed: Array) -> tuple[Array, Array]:
    """Check whether pictures [n, 3, SIZE, SIZE] show the same details, once the first are moved onto the second.

    Returns:
        For each pair whether they do, [n], and whether they may if the second is moved onto the first, [n].
    """
    one, other = _small_grey(moved), _small_grey(fixed)
    details = other - _blur(other, 6)
    move = np.zeros((len(moved), 4), np.float32)
    alike, near = np.ones((2, len(moved)), dtype=bool)
    for stage, (blurs, steps, least) in enumerate(_STAGES):
        move[alike] = _register(one[alike], other[alike], move[alike], blurs, steps)
        warped, inside = _warp(one[alike], move[alike])
        alike[alike] = _correlate(warped - _blur(warped, 6), inside, details[alike]) > least
        if stage == 0:
            near = alike.copy()
        if not alike.any():
            return alike, near
    warped, inside = _warp(_blur(moved[alike], 1), move[alike])
    clear = inside * (np.maximum(warped, fixed[alike]) < _WHITE)
    clear = np.where(clear.mean(axis=(1, 2, 3), keepdims=True) < _LEAST_CLEAR, inside, clear)
    one, other = (_centre(part - _blur(part, 24), clear) for part in (warped, _blur(fixed[alike], 1)))
    contrast = np.sqrt((_dot(one, one) + 1e-6) / (_dot(other, other) + 1e-6))
    same_contrast = (contrast < _MOST_CONTRAST) & (contrast > 1 / _MOST_CONTRAST)
    alike[alike] = same_contrast & (_correlate(one, clear, other) >= LEAST_CORRELATION)
    return alike, near


def _correlate(one: Array, inside: Array, other: Array) -> Array:
    """Return the correlation of the pixels inside, over all channels; details as faint as noise do not correlate."""
    one, other = _centre(one, inside), _centre(other, inside)
    noise = _sums(inside, 1.0).sum(axis=1) * one.shape[1] / inside.shape[1] * _NOISE**2
    squares = (_dot(one, one) + noise) * (_dot(other, other) + noise)
    correlation: Array = _dot(one, other) / np.sqrt(squares)
    return correlation


def _dot(one: Array, other: Array) -> Array:
    """Return the sum over all pixels and channels of the products, [n]; einsum is the fastest of numpy's sums here."""
    return np.einsum("ncij,ncij->n", one, other)


def _sums(pictures: Array, weights: Array | float) -> Array:
    """Return the weighted sum over the pixels of each channel, [n, channels]."""
    return np.einsum("ncij,ncij->nc", pictures, np.broadcast_to(weights, pictures.shape))


def _register(moved: Array, fixed: Array, move: Array, blurs: int, steps: int) -> Array:
    """Return the moves of pictures onto others, [n, 4]: scale - 1 and shift across, then the same down.

    Shifts are in half widths. Takes Gauss-Newton steps from `move` on pictures that are blurred so often. Brightness
    may differ by a factor and a sum.
    """
    size = moved.shape[-1]
    across = _positions(size)
    down = across[:, None]
    moved, fixed = _blur(moved, blurs), _blur(fixed, blurs)
    for _ in range(steps):
        warped, inside = _warp(moved, move)
        one, other = _centre(warped, inside), _centre(fixed, inside)
        gain = _dot(one, other) / (_dot(one, one) + 1e-6)
        gain = gain.clip(0.3, 3)[:, None, None, None]
        slope_down, slope_across = np.gradient(warped, axis=(2, 3))
        slopes = [slope_across * across, slope_across, slope_down * down, slope_down]
        jacobian = np.stack([gain * inside * size / 2 * slope for slope in slopes], axis=-1).reshape(len(moved), -1, 4)
        transposed = jacobian.transpose(0, 2, 1)
        normal = transposed @ jacobian
        ridge = np.trace(normal, axis1=1, axis2=2) * 1e-3 + 1e-6
        residual = (other - gain * one).reshape(len(moved), -1, 1)
        step = np.linalg.solve(normal + np.eye(4) * ridge[:, None, None], transposed @ residual)[..., 0]
        move = np.clip(move + step, -_LARGEST_MOVE, _LARGEST_MOVE)
    return move


def _positions(size: int) -> Array:
    """Return the places of pixels, from -1 to 1."""
    return ((np.arange(size) - (size - 1) / 2) / (size / 2)).astype(np.float32)


def _warp(pictures: Array, move: Array) -> tuple[Array, Array]:
    """Return pictures [n, channels, size, size] moved and scaled, and which pixels [n, 1, size, size] they cover."""
    size = pictures.shape[-1]

    def interpolate(scale: Array, shift: Array) -> Array:
        wanted = (_positions(size) * (1 + scale[:, None]) + shift[:, None]) * (size / 2) + (size - 1) / 2
        return np.maximum(0, 1 - np.abs(wanted[:, :, None] - np.arange(size))).astype(np.float32)[:, None]

    across, down = interpolate(move[:, 0], move[:, 1]), interpolate(move[:, 2], move[:, 3])
    covered = [(matrix.sum(axis=-1) > 0.5) for matrix in (down, across)]  # at the border half a pixel is missing
    inside = covered[0][..., :, None] & covered[1][..., None, :]
    weights = down.sum(axis=-1)[..., :, None] * across.sum(axis=-1)[..., None, :]
    return down @ pictures @ across.swapaxes(2, 3) / np.maximum(weights, 0.25), inside.astype(np.float32)


def _centre(pictures: Array, inside: Array) -> Array:
    """Return the pixels inside minus their mean in each channel; 0 outside."""
    mean = _sums(pictures, inside) / np.maximum(_sums(inside, 1.0), 1)
    return (pictures - mean[:, :, None, None]) * inside


def _small_grey(pictures: Array) -> Array:
    """Return [n, 1, size / 2, size / 2] of pictures in colour."""
    grey = pictures[:, 0] + pictures[:, 1] + pictures[:, 2]
    rows = grey[:, ::2] + grey[:, 1::2]
    return ((rows[:, :, ::2] + rows[:, :, 1::2]) / 12)[:, None]


def _blur(pictures: Array, times: int) -> Array:
    """Blur pictures by a binomial filter of three pixels, so many times."""
    if not times:
        return pictures
    size = pictures.shape[-1]
    once = (np.eye(size) + np.eye(size, k=1) / 2 + np.eye(size, k=-1) / 2) / 2
    once[0, 0] = once[-1, -1] = 0.75  # the border repeats
    filtered = np.linalg.matrix_power(once, times).astype(np.float32)
    return filtered @ pictures @ filtered.T
