"""Every family under the kinds of method: what each does to a model, against rules that must hold.

The gradients of adapters and of models with added blocks are compared with those of the plain
model, from which the chain rule gives them. Runs are killed and resumed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import make_decoder_goldens
from support import model_folder, rounding, runs

import jcl
from jcl.backbones import block_expansion, layers, lora
from jcl.backbones.files import hf
from jcl.backbones.model_config import with_settings
from jcl.backbones.models import make_backbone
from jcl.batching.batch import Row, Shape, layout
from jcl.config import BackboneConfig
from jcl.storage.encoding import leaves_by_path
from jcl.training import experiment
from jcl.training.loop import Loop

pytestmark = pytest.mark.slow
# Of each family one golden model; those of the first families train in many other tests.
CASES = [
  ('decoder', case)
  for case in make_decoder_goldens.NEW_CASES
  if case not in ('phi3', 'yarn', 'qwen2_window')
]
CASES += [('encoder', case) for case in ('xlm-roberta', 'mpnet', 'modernbert')]
LENGTHS, CLASSES = (9, 5), 4


def written(kind, case, folder):
  """A golden model in a folder -> its path."""
  words = model_folder.word_pieces() if kind == 'encoder' else None
  return str(model_folder.write(folder, model_folder.golden(case, kind), tokenizer=words))


def batch(kind, only=None):
  """Two rows, or one of them without padding; a target at each token, or one class a row."""
  draw, rows = np.random.default_rng(1), []
  for i, n in enumerate(LENGTHS):
    tokens = draw.integers(9, 25, n).astype(np.int32)
    wanted = draw.integers(0, CLASSES if kind == 'encoder' else 25, n).astype(np.int32)
    places = np.arange(1 if kind == 'encoder' else n)
    rows.append(Row(tokens, places, wanted[places], i, 0))
  rows, shape = (rows, (2, 12, 16)) if only is None else ([rows[only]], (1, LENGTHS[only], 16))
  return layout(rows, 1, Shape(*shape), keys=np.zeros((len(rows), 2), np.uint32))


def gradient_of(backbone):
  """Returns the gradient of the summed cross-entropy of a batch."""

  def nats(params, given):
    logits_MV, target_M = backbone.logits(params, given), given.target_token
    chosen_M = jax.nn.log_softmax(logits_MV)[jnp.arange(len(target_M)), target_M]
    return -(chosen_M * given.target_weight).sum()

  return jax.jit(jax.grad(nats))


def with_adapter(params, new_L):
  """Parameters with an adapter of every projection, which is off in new layers."""
  adapter = lora.init_adapter(params, jax.random.key(0), 2, 4.0, [*lora.kernels(params)])
  for name, part in adapter['layers'].items():
    draw = 0.1 * jax.random.normal(jax.random.key(len(name)), part['b'].shape)
    part['b'] = draw * (1 - new_L)[:, None, None]
  return {**params, 'lora': adapter}


@pytest.mark.parametrize(('kind', 'case'), CASES)
def test_gradients_are_those_of_the_parts(kind, case, tmp_path):
  """Of rows alone, of merged adapters, and of a model before blocks were added to it."""
  loaded = hf.load(written(kind, case, tmp_path))
  settings = BackboneConfig(head='linear' if kind == 'encoder' else '')
  config = with_settings(loaded.config, settings, CLASSES if kind == 'encoder' else 0)
  backbone = make_backbone(config)
  params = {**backbone.init(jax.random.key(0)), **jax.tree.map(jnp.asarray, loaded.params)}
  new_L = np.zeros(config.layers, np.float32)
  grown_backbone, grown = backbone, params
  if kind == 'decoder':
    sizes = block_expansion.group_sizes(params, every=3)
    grown, new_L = block_expansion.expand(params, sizes)
    grown_backbone = make_backbone(dataclasses.replace(config, block_every=3))
  grown = with_adapter(grown, new_L)
  old = lambda tree: jax.tree.map(lambda x: x[new_L == 0], tree)
  merged = lora.merged(grown)
  merged = {**merged, 'layers': old(merged['layers'])}

  size = rounding.of_model(config, gradient=True)
  gradient = gradient_of(backbone)
  plain, alone = gradient(merged, batch(kind)), [gradient(merged, batch(kind, i)) for i in (0, 1)]
  found = gradient_of(grown_backbone)(grown, batch(kind))
  adapter = found.pop('lora')['layers']
  close = lambda one, other: check_close(one, other, size, config.positions == 'learned')
  close(jax.tree.map(jnp.add, *alone), plain)
  close({**found, 'layers': old(found['layers'])}, plain)
  for name, given in grown['lora']['layers'].items():
    a, b, scale = (x[new_L == 0] for x in (given['a'], given['b'], given['scale'][:, None, None]))
    kernel = plain['layers'][name]['kernel']
    wanted = {
      'a': scale * jnp.einsum('lro,lio->lri', b, kernel),
      'b': scale * jnp.einsum('lri,lio->lro', a, kernel),
    }
    rounding.assert_close({leaf: old(adapter[name][leaf]) for leaf in 'ab'}, wanted, **size)
  for name, part in found['layers'].items():
    if new_L.any():  # whatever stands before a projection that is zero has no gradient
      largest = max(np.abs(x[new_L == 1]).max() for x in jax.tree.leaves(part))
      assert (largest > 0) == (name in block_expansion.OUTPUTS), name
  if kind == 'decoder':
    check_cache(grown_backbone, grown, rounding.of_model(config))


def check_close(found, wanted, size, learned):
  """Compares gradients, each leaf within rounding of its largest entry.

  Without rotary positions a bias of the keys moves all scores of a query alike, so that its
  gradient is zero but for rounding, of numbers of the size of the bias of the queries.
  """
  found, wanted = leaves_by_path(found), leaves_by_path(wanted)
  assert set(found) == set(wanted)
  assert any(np.any(x) for x in wanted.values())
  for path, x in wanted.items():
    is_zero = learned and path.endswith('k/bias')
    scale = np.abs(wanted[path.replace('k/bias', 'q/bias')]).max() if is_zero else None
    rounding.assert_close({path: found[path]}, {path: x}, scale=scale, **size)


def check_cache(backbone, params, size):
  """Decoded token by token, the logits are those of the whole row."""
  tokens_T = batch('decoder', 0).tokens[:1, : LENGTHS[0]]
  cache, real = backbone.cache(params, 1, LENGTHS[0]), np.ones((1, LENGTHS[0]), bool)
  decode, found = jax.jit(backbone.decode), []
  for i in range(LENGTHS[0]):
    logits_BV, cache = decode(params, tokens_T[:, i : i + 1], real, cache, i)
    found.append(logits_BV[0])
  whole = jax.jit(backbone.logits)(params, batch('decoder', 0))[: LENGTHS[0]]
  rounding.assert_close(np.stack(found), whole, **size)


def stream():
  """Two tasks of two classes in words of the golden models."""
  draw, splits = np.random.default_rng(0), {'train': {}, 'test': {}}
  for task in range(2):
    rows = [
      {
        'text': ' '.join(f'w{i:03}' for i in draw.integers(9, 25, 7)),
        'label': f'w{30 + 2 * task + k % 2:03}',
      }
      for k in range(12)
    ]
    splits['train'][f't{task}'], splits['test'][f't{task}'] = rows[:8], rows[8:]
  return jcl.Stream.from_rows(splits['train'], test=splits['test'])


RUNS = [
  ('decoder', 'gemma2', 'lora'),
  ('decoder', 'granite', 'expand'),
  ('encoder', 'mpnet', 'ewc'),
]


@pytest.mark.parametrize(('kind', 'case', 'method'), RUNS)
def test_a_run_that_is_killed_ends_in_the_same_bits(kind, case, method, tmp_path):
  path = written(kind, case, tmp_path / 'model')
  made = runs.config(
    method,
    backbone={'path': path, 'head': 'linear' if kind == 'encoder' else ''},
    train={'epochs': 1, 'batch_size': 4},
    checkpoint={'every_steps': 1},
  )
  made.stream = stream().settings
  loops = []
  for name in ('whole', 'killed', 'killed'):
    (tmp_path / name).mkdir(exist_ok=True)
    parts = experiment.assemble(made, stream=stream())
    loops.append(Loop(parts, tmp_path / name, quiet=True))
  whole, killed, resumed = loops
  whole.run()
  runs.die_after_step(killed, task=1, step=1)  # a snapshot inside the task is there
  assert resumed.run()['resumes']
  wanted, found = whole.last, resumed.last
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
  jax.tree.map(np.testing.assert_array_equal, found.memory['teacher'], wanted.memory['teacher'])
  check_frozen(method, wanted, hf.load(path).params)


def check_frozen(method, ended, base):
  """Checks that frozen parameters are as in the file, and that other parameters have moved."""
  params = dict(ended.params)
  params.pop('head', None)
  moved = lambda one, two: any(
    np.any(x != y) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  )
  if method == 'lora':
    assert all(np.any(part['b']) for part in params.pop('lora')['layers'].values())
  if method == 'expand':  # one group of layers, behind which each task puts a block
    depth = layers.depth(base)
    assert np.all(np.any(params['layers']['o']['kernel'][depth:], (1, 2)))
    params['layers'] = jax.tree.map(lambda x: x[:depth], params['layers'])
  assert moved(params, base) == (method not in ('lora', 'expand'))
