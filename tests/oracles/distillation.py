"""Objectives of methods with a teacher, target by target, in float64: no line of it is jcl's.

A row is anything with tokens, targets, wanted, replay and generative. A model is that of
`tiny.recurrent`; its logits are worked out here anew. Everything is a sum in plain loops.
"""

import math

import numpy as np


def logits(params, row, outputs):
  """[m, V] of one row: z = tanh(x + W·(mean of the x so far) + b) E^T."""
  matrix = {name: np.asarray(leaf['kernel'], np.float64) for name, leaf in params.items()}
  found = []
  for position in row.targets:
    seen = [matrix['embed'][token] for token in row.tokens[: position + 1]]
    mean = sum(seen) / len(seen)
    state = np.tanh(seen[-1] + mean @ matrix['mix'] + matrix['bias'])
    found.append(state @ matrix['head'] if 'head' in matrix else matrix['embed'][:outputs] @ state)
  return found


def shares(z):
  """softmax(z)."""
  powers = [math.exp(x - max(z)) for x in z]
  return [p / sum(powers) for p in powers]


def surprise(z, wanted):
  """-log softmax(z)[wanted]."""
  return -math.log(shares(z)[wanted])


def divergence(student, teacher, temperature):
  """T²·KL(teacher ‖ student), both softened."""
  p = shares([x / temperature for x in teacher])
  q = shares([x / temperature for x in student])
  return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def distance(student, teacher):
  """The mean over the vocabulary of the squared difference."""
  return sum((a - b) ** 2 for a, b in zip(student, teacher, strict=True)) / len(student)


def mean(values):
  """0 of nothing."""
  return sum(values) / len(values) if values else 0.0


def targets(params, teacher, rows, outputs):
  """(row, student's logits, teacher's logits, wanted) of every target."""
  for row in rows:
    both = (logits(p, row, outputs) for p in (params, teacher))
    for student, past, wanted in zip(*both, row.wanted, strict=True):
      yield row, student, past, int(wanted)


def derpp(params, teacher, rows, outputs, alpha, beta):
  """CE(new) + beta·CE(old) + alpha·MSE(old)."""
  new, old, mse = [], [], []
  for row, z, past, wanted in targets(params, teacher, rows, outputs):
    (old if row.replay else new).append(surprise(z, wanted))
    if row.replay:
      mse.append(distance(z, past))
  return mean(new) + beta * mean(old) + alpha * mean(mse)


def distill(params, teacher, rows, outputs, alpha, temperature):
  """(1 − alpha)·CE + alpha·KD over all rows."""
  every = list(targets(params, teacher, rows, outputs))
  ce = mean([surprise(z, wanted) for _, z, _, wanted in every])
  kd = mean([divergence(z, past, temperature) for _, z, past, _ in every])
  return (1 - alpha) * ce + alpha * kd


class At:
  """A row with other places to look at."""

  def __init__(self, row, places):
    self.tokens, self.targets, self.wanted = row.tokens, places, [0] * len(places)
    self.replay, self.generative = row.replay, row.generative


def lamol_kd(params, teacher, rows, outputs, lambda_gen, weight, temperature, unshifted=False):
  """CE(new QA) + λ·CE(new GEN) + weight·(KD(old QA) + λ·KD(old GEN)).

  Unshifted, as published: the mask over tokens is that of the labels, so an old row is looked at
  where a token to be predicted stands, not where it is predicted.
  """
  found = {(replay, gen): [] for replay in (False, True) for gen in (False, True)}
  if unshifted:
    labelled = lambda r: [t for t in range(len(r.tokens)) if t - 1 in list(r.targets)]
    rows = [At(r, labelled(r)) if r.replay else r for r in rows]
  for row, z, past, wanted in targets(params, teacher, rows, outputs):
    value = divergence(z, past, temperature) if row.replay else surprise(z, wanted)
    found[row.replay, row.generative].append(value)
  qa, gen = (mean(found[False, g]) for g in (False, True))
  old_qa, old_gen = (mean(found[True, g]) for g in (False, True))
  return qa + lambda_gen * gen + weight * (old_qa + lambda_gen * old_gen)
