"""Importance and penalties in float64 NumPy, loops and derivatives written out by hand.

The model is that of `tiny.recurrent`: x = E[token], y_t = x_t + mean(x_0 … x_t) W + b, h = tanh(y),
z = h Eᵀ over the V real tokens, or h H with a head H. An example is a list of rows (tokens,
positions of the targets, wanted tokens).
"""

import numpy as np


def _forward(params, tokens):
  """-> x_TD, past_TD, h_TD."""
  x_TD = params['embed'][tokens]
  past_TD = np.stack([x_TD[: t + 1].mean(0) for t in range(len(tokens))])
  return x_TD, past_TD, np.tanh(x_TD + past_TD @ params['mix'] + params['bias'])


def logits(params, row, vocabulary):
  """z [M, V] at the targets of a row."""
  tokens, targets = row[:2]
  h_MD = _forward(params, tokens)[2][targets]
  if 'head' in params:
    return h_MD @ params['head']
  return h_MD @ params['embed'][:vocabulary].T


def softmax(z_MV):
  """exp z / Σ exp z."""
  e_MV = np.exp(z_MV - z_MV.max(-1, keepdims=True))
  return e_MV / e_MV.sum(-1, keepdims=True)


def pulled_back(params, row, dz_MV):
  """The gradient of Σ dz · z for all parameters, dz held constant."""
  tokens, targets = row[:2]
  _, past_TD, h_TD = _forward(params, tokens)
  out = {name: np.zeros_like(value) for name, value in params.items()}
  dh_TD = np.zeros_like(h_TD)
  for m, t in enumerate(targets):
    if 'head' in params:
      out['head'] += np.outer(h_TD[t], dz_MV[m])
      dh_TD[t] += params['head'] @ dz_MV[m]
    else:
      vocabulary = dz_MV.shape[1]
      out['embed'][:vocabulary] += np.outer(dz_MV[m], h_TD[t])
      dh_TD[t] += dz_MV[m] @ params['embed'][:vocabulary]
  dy_TD = dh_TD * (1 - h_TD**2)
  out['bias'] += dy_TD.sum(0)
  out['mix'] += past_TD.T @ dy_TD
  dpast_TD = dy_TD @ params['mix'].T
  for t, token in enumerate(tokens):
    out['embed'][token] += dy_TD[t]
    for s in range(t + 1):
      out['embed'][tokens[s]] += dpast_TD[t] / (t + 1)
  return out


def flat(tree):
  """All leaves in one vector, in the order of their names."""
  return np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])


def _sum(trees):
  return sum(flat(tree) for tree in trees)


def nats_gradient(params, example, vocabulary, reduction='mean', labels=None):
  """Of −log p over all targets of an example's rows; `labels`: other tokens, a list a row."""
  count = sum(len(row[1]) for row in example)
  parts = []
  for i, row in enumerate(example):
    dz_MV = softmax(logits(params, row, vocabulary))
    wanted = row[2] if labels is None else labels[i]
    dz_MV[np.arange(len(wanted)), wanted] -= 1
    parts.append(pulled_back(params, row, dz_MV / (count if reduction == 'mean' else 1)))
  return _sum(parts)


def fisher(params, examples, vocabulary, reduction='mean'):
  """The mean over examples of the square of each one's gradient."""
  each = [nats_gradient(params, e, vocabulary, reduction) ** 2 for e in examples]
  return np.mean(each, 0)


def batch_fisher(params, batches, vocabulary):
  """(Σ_b |b| (gradient of the mean over b's targets)²) / Σ_b |b|, of batches of examples."""
  total = 0
  for batch in batches:
    together = [row for example in batch for row in example]
    total = total + len(batch) * nats_gradient(params, together, vocabulary) ** 2
  return total / sum(map(len, batches))


def expected_fisher(params, example, vocabulary):
  """E over labels drawn from p of the squared gradient of the mean −log p, exactly.

  Labels of different targets are independent and each score has mean 0, so products vanish.
  """
  count, total = sum(len(row[1]) for row in example), 0
  for row in example:
    p_MV = softmax(logits(params, row, vocabulary))
    for m in range(len(row[1])):
      for v in range(p_MV.shape[1]):
        dz_MV = np.zeros_like(p_MV)
        dz_MV[m] = p_MV[m]
        dz_MV[m, v] -= 1
        total = total + p_MV[m, v] * flat(pulled_back(params, row, dz_MV)) ** 2
  return total / count**2


def importance(params, examples, vocabulary):
  """MAS: the mean over examples of |gradient of Σ_m ‖z[m]‖² / targets|."""
  each = []
  for example in examples:
    count = sum(len(row[1]) for row in example)
    parts = [pulled_back(params, r, 2 * logits(params, r, vocabulary) / count) for r in example]
    each.append(np.abs(_sum(parts)))
  return np.mean(each, 0)


# Penalties at θ of what K tasks left: F_k [P] and θ_k [P] of each -> value, gradient.


def separate(theta, fishers, ends):
  """A quadratic a task, around that task's own end."""
  value = sum(np.sum(f * (theta - a) ** 2) for f, a in zip(fishers, ends, strict=True))
  return value, 2 * sum(f * (theta - a) for f, a in zip(fishers, ends, strict=True))


def _around_the_last(theta, fisher, ends):
  away = theta - ends[-1]
  return np.sum(fisher * away**2), 2 * fisher * away


def online(theta, fishers, ends, decay=1.0):
  """Older ones fade: Σ_k decay^(K−k) F_k."""
  last = len(fishers) - 1
  faded = sum(decay ** (last - k) * f for k, f in enumerate(fishers))
  return _around_the_last(theta, faded, ends)


def running_mean(theta, fishers, ends):
  """The mean of all F_k."""
  return _around_the_last(theta, np.mean(fishers, 0), ends)


def distance(theta, fishers, ends):
  """L2: the squared distance to the last end."""
  return _around_the_last(theta, np.ones_like(theta), ends)
