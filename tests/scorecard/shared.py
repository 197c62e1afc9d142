"""Columns that belong to no method: what several of them are made of."""

import itertools
import json
from collections import Counter

import jax
import numpy as np
from oracles import penalties
from support import adapter_folder, tiny

from jcl import methods
from jcl.backbones import lora_merging
from jcl.batching.batch import Shape, layout
from jcl.memory import buffer
from jcl.step import losses, sharding, train_step, trainable
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
    if how == 'magmax':
      each = np.stack([_products(adapter) for adapter in every.values()])
      places = np.abs(np.array(weights)[:, None] * each).argmax(0)
      largest = sum(weights) * each[places, np.arange(each.shape[1])]
      near('magmax of three', whole(every, weights, rank=16), largest, 1e-5)
    if how in ('linear', 'cat', 'dare'):
      terms = zip(weights, every.values(), strict=True)
      near(f'{how} of three', whole(every, weights, **({'rank': 16} if how == 'dare' else {})),
           sum(w * _products(adapter) for w, adapter in terms), 1e-5)  # fmt: skip


def dft() -> None:
  """Each target's cross-entropy counts by its probability, which has no gradient; no other term."""
  backbone, params = tiny.recurrent(tiny.CONFIG.vocabulary), tiny.params(tiny.recurrent(30))
  rows, theta = tiny.rows(), {k: np.asarray(x['kernel'], np.float64) for k, x in params.items()}
  settings = methods.settings_class('derpp')(beta=1.0, level='dataset')
  method = methods.make(backbone, settings)
  plain, weighed = method.loss_fn, losses.by_probability(method.loss_fn)
  batch = layout(rows, 1, Shape(16, 24, 96), tiny.keys(len(rows)))
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  past = tiny.params(backbone, 1)
  found = {}
  for name, fn in (('plain', plain), ('weighed', weighed)):
    call = train_step.make_gradient(method, fn, sharding.make_mesh(1))
    found[name] = jax.jit(call)(trained, frozen, past, {'mse': 0.0}, batch)
  (_, values), _ = found['plain']
  (loss, terms), gradient = found['weighed']
  near('a term that is no cross-entropy', float(terms['mse']), float(values['mse']), 1e-6)
  wanted, slopes = 0.0, {name: np.zeros_like(leaf) for name, leaf in theta.items()}
  for replay in (False, True):
    own = [row for row in rows if row.replay == replay]
    count = sum(len(row.targets) for row in own)
    for row in own:
      z_MV = penalties.logits(theta, (row.tokens, row.targets), 30)
      p_MV, one_MV = penalties.softmax(z_MV), np.eye(30)[row.wanted]
      p_M = (p_MV * one_MV).sum(1)
      wanted -= (p_M * np.log(p_M)).sum() / count
      dz_MV = p_M[:, None] * (p_MV - one_MV) / count
      pulled = penalties.pulled_back(theta, (row.tokens, row.targets), dz_MV)
      slopes = {name: slopes[name] + pulled[name] for name in theta}
  near('objective', float(loss), wanted, 1e-5)
  flat = lambda tree: np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])
  near('gradient', flat({k: x['kernel'] for k, x in gradient.items()}), flat(slopes), 1e-5)


def _products(adapter: dict) -> np.ndarray:
  """Every ΔW in one vector."""
  return np.concatenate([np.ravel(adapter_folder.product(adapter, name)) for name in SHAPES])
