"""Objectives of MAML, interfered retrieval and adversarial training, in float64 NumPy.

The model is that of `penalties.py`, whose derivatives are written out by hand. A row is anything
with tokens, targets, wanted and replay; `params` are float64 arrays by name.
"""

import numpy as np
from oracles import penalties


def plain(row):
  """A row as `penalties` takes it."""
  return row.tokens, row.targets, row.wanted


def nats(params, row, vocabulary):
  """-log p of every target of a row."""
  p_MV = penalties.softmax(penalties.logits(params, plain(row), vocabulary))
  return -np.log(p_MV[np.arange(len(row.wanted)), row.wanted])


def cross_entropy(params, rows, vocabulary):
  """The mean over all targets; 0 of none."""
  every = [x for row in rows for x in nats(params, row, vocabulary)]
  return float(np.mean(every)) if every else 0.0


def descended(params, rows, vocabulary, rate, trains=None):
  """One step of gradient descent on the mean over all targets of the rows.

  `trains` has 1 where an entry trains and 0 where it does not, by name; without it all train.
  """
  if not rows:
    return params
  flat = penalties.nats_gradient(params, [plain(row) for row in rows], vocabulary)
  moved, start = {}, 0
  for name in sorted(params):
    size = params[name].size
    step = rate * flat[start : start + size].reshape(params[name].shape)
    moved[name] = params[name] - step * (1 if trains is None else trains[name])
    start += size
  return moved


def maml(params, rows, vocabulary, inner_lr, inner_steps, trains=None):
  """The loss of all rows after steps down that of the new ones."""
  new = [row for row in rows if not row.replay]
  for _ in range(inner_steps):
    params = descended(params, new, vocabulary, inner_lr, trains)
  return cross_entropy(params, rows, vocabulary)


def interfered(params, rows, vocabulary, candidates, virtual_lr, trains=None):
  """Numbers of the old rows that count: a step on the new ones raises their mean loss most."""
  new, old = ([row for row in rows if row.replay == kind] for kind in (False, True))
  moved = descended(params, new, vocabulary, virtual_lr, trains)
  rise = lambda row: np.mean(nats(moved, row, vocabulary)) - np.mean(nats(params, row, vocabulary))
  ranked = sorted(old, key=rise, reverse=True)
  return {row.number for row in ranked[: len(old) // candidates]}


def moved_nats(params, row, vocabulary, delta_TD):
  """-log p of every target of a row whose embeddings stand `delta` away from the table's."""
  x_TD = params['embed'][row.tokens] + delta_TD
  past_TD = np.stack([x_TD[: t + 1].mean(0) for t in range(len(row.tokens))])
  h_MD = np.tanh(x_TD + past_TD @ params['mix'] + params['bias'])[row.targets]
  p_MV = penalties.softmax(h_MD @ params['embed'][:vocabulary].T)
  return -np.log(p_MV[np.arange(len(row.wanted)), row.wanted])


def adversarial(params, rows, vocabulary, epsilon, weight):
  """-> the clean mean and the whole objective; the embeddings' gradient by central differences."""
  count, clean, worse = sum(len(row.wanted) for row in rows), 0.0, 0.0
  for row in rows:
    zero_TD = np.zeros((len(row.tokens), params['embed'].shape[1]))
    at = lambda delta_TD, row=row: moved_nats(params, row, vocabulary, delta_TD).sum() / count
    gradient_TD = np.zeros_like(zero_TD)
    for place in np.ndindex(*zero_TD.shape):
      step_TD = np.zeros_like(zero_TD)
      step_TD[place] = 1e-5
      gradient_TD[place] = (at(step_TD) - at(-step_TD)) / 2e-5
    length = np.linalg.norm(gradient_TD)
    clean += at(zero_TD)
    worse += at(epsilon * gradient_TD / length if length else zero_TD)
  return clean, clean + weight * worse
