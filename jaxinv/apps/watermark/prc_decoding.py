r"""Decoding of a sparse code: belief propagation, then ordered statistics.

*Belief propagation* sends messages along the parity checks. With the log-likelihood
ratios L of the bits (positive for zero), a check c tells its bit v

    m(c -> v) = 2 atanh prod_{u in c, u != v} tanh( m(u -> c) / 2 ),

and a bit answers with L plus the messages of its other checks. *Ordered statistics*
then trust the most certain bits: those of them whose rows of the generator are linearly
independent determine the payload.

References:
    Gunn, Zhao, Song 2024, arXiv:2410.07369, Section 4.2 and Algorithm 4; Fossorier and
    Lin 1995 (ordered statistics, of order 0).
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


def propagate(
    ratios: Float[np.ndarray, "n"], checks: Int[np.ndarray, "r t"], iterations: int
) -> Float[np.ndarray, "n"]:
    """Return log-likelihood ratios of the bits after belief propagation.

    Args:
        ratios: Log-likelihood ratios of the received bits, positive for zero.
        checks: Positions of each parity check.
        iterations: Number of iterations. It stops earlier if all checks hold.

    Returns:
        The ratios.
    """
    beliefs = ratios
    messages = np.zeros(checks.shape)
    for _ in range(iterations):
        incoming = np.tanh((beliefs[checks] - messages) / 2)
        # The product of the others, without a division that a zero spoils.
        before = np.cumprod(incoming[:, :-1], axis=1)
        after = np.cumprod(incoming[:, :0:-1], axis=1)[:, ::-1]
        ones = np.ones((len(checks), 1))
        others = np.concatenate([ones, before], 1) * np.concatenate([after, ones], 1)
        messages = 2 * np.arctanh(np.clip(others, -1 + 1e-12, 1 - 1e-12))
        told = np.bincount(checks.ravel(), messages.ravel(), minlength=len(ratios))
        beliefs = ratios + told
        if not np.any(np.bitwise_xor.reduce(beliefs[checks] < 0, axis=1)):
            break
    return beliefs


def solve_most_certain(
    generator: UInt8[np.ndarray, "n k"],
    word: Bool[np.ndarray, "n"],
    certainty: Float[np.ndarray, "n"],
) -> Bool[np.ndarray, "k"] | None:
    """Return the payload that the most certain independent bits determine.

    Args:
        generator: The matrix G.
        word: The bits of the codeword, as far as they are known.
        certainty: How certain each is.

    Returns:
        The payload p with ``G p = word`` in the first k bits, in the order of their
        certainty, whose rows of G are independent; None if there are fewer.
    """
    order = np.argsort(-certainty, kind="stable")
    n, k = generator.shape
    # Rows: columns of G, its positions in order of certainty; beside them the identity,
    # which becomes the matrix of the row operations.
    rows = np.packbits(
        np.concatenate([generator[order].T, np.eye(k, dtype=np.uint8)], 1), axis=1
    )
    pivots: list[int] = []
    for column in range(n):
        byte, shift = column >> 3, 7 - (column & 7)
        holds = (rows[:, byte] >> shift & 1).astype(bool)
        start = len(pivots)
        below = np.flatnonzero(holds[start:])
        if not len(below):
            continue
        pivot = start + below[0]
        rows[[start, pivot]] = rows[[pivot, start]]
        holds[[start, pivot]] = holds[[pivot, start]]
        holds[start] = False
        rows[holds] ^= rows[start]
        pivots.append(column)
        if len(pivots) == k:
            operations = np.unpackbits(rows, axis=1)[:, n : n + k]
            known = word[order[pivots]].astype(int)
            return (known @ operations.astype(int) % 2).astype(bool)
    return None
