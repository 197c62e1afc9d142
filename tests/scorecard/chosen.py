"""Column of the state that a solved head reads: which is chosen, by one device and by several."""

import numpy as np
from support import chosen_states

from jcl.training.hook_tools import HookTools
from scorecard.wrong import above, equal, near


def state() -> None:
  """All candidates have the scores of an oracle, and the model is cut behind the best."""
  for dev in (True, False):
    state_by(dev)


def state_by(dev: bool) -> HookTools:
  """Looks at a choice by dev rows, or by training rows that are held out; returns its tools."""
  params, memory, tools = chosen_states.chosen(dev=dev)
  (told,), wanted = tools.reports['state'], chosen_states.scores(tools, dev)
  of = 'dev rows' if dev else 'training rows'
  above(f'scores by {of} that differ', len({one.margin for one in wanted}), 1)
  for found, one in zip(told['tried'], wanted, strict=True):
    equal(f'a candidate by {of}', tuple(found[:3]), one.candidate)
    near(f'accuracy of {one.candidate} by {of}', found[3], one.accuracy, one.rounding[0], 1)
    near(f'margin of {one.candidate} by {of}', found[4], one.margin, one.rounding[1], 1)
  best = dict(zip(('blocks', 'mean', 'pooling'), chosen_states.best(wanted), strict=True))
  equal(f'the state by {of}', memory['state'], best)
  equal(f'rows held out by {of}', told['held'], f'2 {of}')
  _model(params, best)
  return tools


def _model(params, best) -> None:
  """The model ends behind the blocks of the best state, and the head reads it."""
  blocks = best['blocks']
  equal('blocks of the model', len(np.asarray(params['layers']['q']['kernel'])), blocks)
  mix_LQ = np.zeros((blocks + 1, 3))
  first = 0 if best['mean'] else blocks
  mix_LQ[first:, ('last', 'first', 'mean').index(best['pooling'])] = 1 / (blocks + 1 - first)
  near('weights of the states', np.asarray(params['head']['mix']), mix_LQ, 2**-23)


def devices() -> None:
  """Devices choose alike and solve the head of one device, whether or not they share layers."""
  one = chosen_states.told(chosen_states.ALONE)
  _, _, tools = chosen_states.chosen()
  wanted = chosen_states.scores(tools, dev=True)
  for way in (*chosen_states.SAME_BITS, *chosen_states.SHARED):
    found = chosen_states.told(way)
    equal(f'the state on {way}', found['state'], one['state'])
    if way in chosen_states.SAME_BITS:
      equal(f'scores on {way}', found['tried'], one['tried'])
      near(f'kernel on {way}', found['kernel'], one['kernel'], 2**-23)
      continue
    for some, other, score in zip(found['tried'], one['tried'], wanted, strict=True):
      for place, apart in zip((3, 4), score.rounding, strict=True):
        near(f'scores of {score.candidate} on {way}', some[place], other[place], apart, 1)
    near(f'kernel on {way}', found['kernel'], one['kernel'], chosen_states.kernel_rounding(one))


if __name__ == '__main__':
  devices()
