"""Columns that belong to no method: what several of them are made of."""

import json

import adapter_folder
import numpy as np

from jcl.backbones import merges
from jcl.memory import buffer
from scorecard.wrong import equal, near

SHAPES = {'q': (2, 16, 16), 'v': (2, 16, 8), 'down': (2, 24, 16)}
KEPT, OFFERED, SEEDS = 5, 20, 1500
ONCE_IN_A_THOUSAND = 43.8  # chi-square of 19 degrees of freedom


def offered(first: int, last: int) -> list[tuple[int, int]]:
  """References of examples."""
  return [(number // 10, number) for number in range(first, last)]


def reservoir() -> None:
  """Each of 20 is kept as often as any other, in one go or in parts that are stored in between."""
  for parts in ([20], [12, 8], [3, 1, 9, 7]):
    count = np.zeros(OFFERED)
    for seed in range(SEEDS):
      kept, first = buffer.empty(), 0
      for part in parts:
        new = offered(first, first + part)
        kept = buffer.add(_restored(kept), new, KEPT, 'reservoir', seed)
        first += part
      numbers = [number for _, number in kept['examples']]
      equal('examples kept', len(set(numbers)), KEPT)
      count[numbers] += 1
    share = KEPT / OFFERED
    spread = SEEDS * share * (1 - share) * OFFERED / (OFFERED - 1)
    found = ((count - SEEDS * share) ** 2 / spread).sum()
    near(f'chi-square of parts of {parts}', max(found - ONCE_IN_A_THOUSAND, 0), 0, 0)
  whole = buffer.add(buffer.empty(), offered(0, 60), 7, 'reservoir', 3)
  half = buffer.add(buffer.empty(), offered(0, 23), 7, 'reservoir', 3)
  gone_on = buffer.add(_restored(half), offered(23, 60), 7, 'reservoir', 3)
  equal('a buffer that went on after a restore', gone_on, whole)


def _restored(kept: buffer.Buffer) -> buffer.Buffer:
  """As it comes out of a file."""
  read = json.loads(json.dumps(kept))
  return {**read, 'examples': [tuple(e) for e in read['examples']]}


def merged() -> None:
  """One adapter is itself, equal ones are each of them, order does not matter, sums are sums."""
  one, two, three = (adapter_folder.adapter(SHAPES, 3, seed, 0.4 + seed) for seed in range(3))
  every = {'a': one, 'b': two, 'c': three}
  weights = (0.2, 0.7, 0.4)
  for how in merges.WAYS:
    whole = lambda adapters, weights=(), how=how, **more: _products(
      merges.merge(adapters, merges.Recipe(how, weights, **{'density': 1.0, **more}))
    )
    near(f'{how} of one adapter', whole({'a': one}), _products(one), 1e-5)
    if how != 'factors':  # which sums A and B apart: of weight 2 it is not twice itself
      near(f'{how} of weight 2', whole({'a': one}, (2.0,)), 2 * _products(one), 1e-5)
    near(f'{how} of three equal ones', whole({'a': one, 'b': one, 'c': one}), _products(one), 1e-5)
    back = whole(dict(reversed(every.items())), weights[::-1])
    near(f'{how} in another order', back, whole(every, weights), 1e-4)
    if how in ('linear', 'cat', 'dare'):
      terms = zip(weights, every.values(), strict=True)
      near(f'{how} of three', whole(every, weights, **({'rank': 16} if how == 'dare' else {})),
           sum(w * _products(adapter) for w, adapter in terms), 1e-5)  # fmt: skip


def _products(adapter: dict) -> np.ndarray:
  """Every ΔW in one vector."""
  return np.concatenate([np.ravel(adapter_folder.product(adapter, name)) for name in SHAPES])
