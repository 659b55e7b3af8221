"""GPTQ as the paper writes it, column by column in float64, with the inverse of the Hessian."""

import numpy as np


def gptq(w, x, scale, lowest, highest, damp=0.01, act_order=True):
    """Values ``[N, K]`` of integer codes of ``w [N, K]`` for rows ``x [M, K]``; ``scale [N, K]``.

    Algorithm 1 without its blocks: after each column the rest moves, and the inverse loses a row.
    A row of the weight that is better rounded by itself is rounded so.
    """
    given = w = w.astype(np.float64)
    x = x.astype(np.float64)
    hessian = x.T @ x
    order = np.argsort(-np.diag(hessian), kind="stable")
    hessian += damp * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    w = w.copy()
    order = order if act_order else np.arange(len(hessian))
    codes, left = np.zeros(w.shape, int), list(order)
    for column in order:
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        row = inverse[left.index(column)]
        codes[:, column] = np.clip(np.rint(w[:, column] / scale[:, column]), lowest, highest)
        error = (w[:, column] - codes[:, column] * scale[:, column]) / row[left.index(column)]
        w[:, left] -= error[:, None] * row
        left.remove(column)
    plain = np.clip(np.rint(given / scale), lowest, highest) * scale
    values = codes * scale
    lost = [np.linalg.norm(x @ (given - tried).T, axis=0) for tried in (values, plain)]
    return np.where((lost[0] < lost[1])[:, None], values, plain)
