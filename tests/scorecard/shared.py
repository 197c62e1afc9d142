"""Columns that belong to no method: what several of them are made of."""

import itertools
import json
from collections import Counter

import numpy as np
from support import adapter_folder

from jcl.backbones import lora_merging
from jcl.memory import buffer
from jcl.streams.stream import Example
from scorecard.wrong import equal, near

SHAPES = {'q': (2, 16, 16), 'v': (2, 16, 8), 'down': (2, 24, 16)}
KEPT, OFFERED, SEEDS = 5, 20, 1500
ONCE_IN_A_THOUSAND = 43.8  # chi-square of 19 degrees of freedom


def offered(first: int, last: int, classes: int = 3) -> list[Example]:
  """Examples, ten a task, their classes in turn."""
  return [Example(n, 'x', 'y', n // 10, n % classes) for n in range(first, last)]


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


def quota() -> None:
  """Every class has size // classes places and no more, filled as far as it has examples.

  Of a class that is herded the first in its order stay when its places become fewer.
  """
  tasks = [
    offered(0, 12, 2),
    [Example(n, 'x', 'y', 1, 2) for n in range(12, 15)],
    [Example(n, 'x', 'y', 2, 3 + n % 4) for n in range(15, 40)],
  ]
  for policy, size in itertools.product(('class_balanced', 'herding'), (7, 14, 30)):
    kept, seen, count = buffer.empty(), [], Counter()
    for examples in tasks:
      before, keys = kept, [-float(e.number) for e in examples]  # herded: the lower the better
      kept = buffer.add(
        _restored(kept), examples, size, policy, 0, keys if policy == 'herding' else ()
      )
      seen += examples
      count.update(e.label for e in examples)
      places = size // len(count)
      what = f'{policy}, {size} places for {len(count)} classes'
      wanted = {label: min(number, places) for label, number in count.items()}
      equal(f'{what}: kept of each class', dict(Counter(kept['labels'])), wanted)
      known = {*before['examples'], *(e.reference for e in examples)}
      equal(f'{what}: examples from nowhere', len({*kept['examples']} - known), 0)
      if policy == 'herding':
        first = [e for c in wanted for e in [x for x in seen if x.label == c][:places]]
        equal(f'{what}: herded', sorted(kept['examples']), sorted(e.reference for e in first))


def merged() -> None:
  """One adapter is itself, equal ones are each of them, order does not matter, sums are sums."""
  one, two, three = (adapter_folder.adapter(SHAPES, 3, seed, 0.4 + seed) for seed in range(3))
  every = {'a': one, 'b': two, 'c': three}
  weights = (0.2, 0.7, 0.4)
  for how in lora_merging.WAYS:
    whole = lambda adapters, weights=(), how=how, **more: _products(
      lora_merging.merge(adapters, lora_merging.Recipe(how, weights, **{'density': 1.0, **more}))
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
