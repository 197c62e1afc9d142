"""Objective and score of continual pretraining, in float64: no line of it is jcl's.

A row is anything with tokens, targets and wanted; the model is that of `tiny.recurrent`, whose
logits `distillation` works out. Everything is a sum in plain loops.
"""

from oracles import distillation


def pretrain(params, rows, outputs):
  """The mean over all targets of all rows, new or old, of −log softmax(z)[wanted], nats."""
  total, count = 0.0, 0
  for row in rows:
    logits = distillation.logits(params, row, outputs)
    for z, wanted in zip(logits, row.wanted, strict=True):
      total += distillation.surprise(z, int(wanted))
      count += 1
  return total / count


def drift(base, params, rows, outputs):
  """The mean over all targets of KL(softmax(z of the base) ‖ softmax(z)), nats."""
  total, count = 0.0, 0
  for row in rows:
    both = (distillation.logits(p, row, outputs) for p in (params, base))
    for z, before in zip(*both, strict=True):
      total += distillation.divergence(z, before, 1.0)
      count += 1
  return total / count


def corpus(documents, eos, bos=None):
  """All tokens of some documents, each a list of ids, one after another."""
  tokens = [eos] if bos is None else []
  for document in documents:
    tokens += ([] if bos is None else [bos]) + list(document) + [eos]
  return tokens
