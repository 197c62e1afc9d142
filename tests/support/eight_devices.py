"""The same numbers on 1, 3 and 8 fake devices: python -m support.eight_devices OUT.npz [every]

Without `every` the cells of `QUICK` are computed on one device and on eight that share its
parameters, and one cell in many ways; with it, all cells are computed in all of their ways
and nothing else is. Run in a
process of its own with JAX_NUM_CPU_DEVICES=8. At most one step is in flight, for more can deadlock
fake devices.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jcl import distributed, methods
from jcl.backbones.decoder import decoder
from jcl.backbones.encoder import encoder
from jcl.backbones.encoder_config import EncoderConfig
from jcl.batching.batch import Heads, Shape, layout, table
from jcl.batching.batch_shapes import packed_rungs
from jcl.config import TrainConfig
from jcl.memory import fisher
from jcl.memory.interference import most_interfered
from jcl.memory.teacher import ExternalTeacher
from jcl.methods import Method
from jcl.step import losses, sharding, train_step, trainable
from jcl.step.adversarial import adversarial
from jcl.step.groups import NO_GROUPS, Groups
from jcl.step.optimizer import make_optimizer
from support import tiny

# name: (devices, sharded, microbatches)
WAYS = {
  '1': (1, False, 1), '3': (3, False, 1), '8': (8, False, 1), '8 fsdp': (8, True, 1),
  '1 k4': (1, False, 4), '8 fsdp k4': (8, True, 4),
}  # fmt: skip
LONGER = '8 longer'  # eight devices, a longer length bucket
# Several rows in a line: 'packed' after the way that it is otherwise.
PACKED, PARTS_PACKED = '1 packed', '8 fsdp k4 packed'
FEW = ('1', '8 fsdp')
# What the default tests compute beside `FEW` of each cell.
MORE = {
  'lamol': ('3', '8 fsdp k4', PARTS_PACKED), 'decoder': (PARTS_PACKED,),
  'derpp cached': ('8 fsdp k4',),
}  # fmt: skip
# The cells that are computed without `every`; the parts of the others stand in these too.
QUICK = ('lamol', 'derpp', 'derpp cached', 'decoder')
ONLY_EVERY = (
  'combined', 'derpp stored', 'ewc', 'masked maml', 'encoder',
  'seq', 'adversarial', 'inner step', 'taught', 'decoder combined', 'distill', 'lamol_kd',
  'lamol_kd cached', 'lamol_kd published', 'decoder elder', 'decoder inner step', 'decoder taught',
  'maml', 'interfered', 'decoder ewc', 'decoder masked', 'decoder adversarial',
  'decoder lamol_kd', 'decoder adapter', 'head', 'lamol_kd gathered',
)  # fmt: skip
CELLS = (*QUICK, *ONLY_EVERY)
SOME = ('1', '3', '8 fsdp', '1 k4', '8 fsdp k4')
HEADS = Heads(tiny.OWN, 2, True)
FEW_LOGITS = losses.FEW
BACKBONE = tiny.recurrent(tiny.CONFIG.vocabulary)
HEAD = tiny.recurrent(tiny.CONFIG.vocabulary, classes=6)
DECODER = decoder(dataclasses.replace(tiny.CONFIG, dropout=0.3))
ELDER = decoder(dataclasses.replace(tiny.CONFIG, width=32, head_dim=8, layers=3, feed_forward=40))
ENCODER = encoder(
  EncoderConfig(
    30, width=16, layers=2, heads=4, feed_forward=24, dropout=0.3, classes=6, head='cosine',
    pooling='mean',
  )
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
  """Parts of an objective."""

  method: Method
  loss_fn: object
  teacher: dict
  weights: dict
  params: dict
  rows: list
  tasks: int = 0
  heads: Heads | None = None
  ways: tuple[str, ...] = tuple(WAYS)
  rules: tuple = (('.*', True),)
  tables: dict = dataclasses.field(default_factory=dict)
  groups: Groups = NO_GROUPS
  gathers: bool = False  # logits are few, but the targets that count are gathered all the same


@functools.cache
def params_of(backbone, seed: int = 0) -> dict:
  """Returns parameters, made once; a step that gives its arguments up takes copies."""
  return tiny.params(backbone, seed)


@functools.cache
def cell_of(name: str) -> Cell:
  """Returns a cell; its parts are made when it is first asked for."""
  return makers()[name]()


@functools.cache
def makers() -> dict[str, Callable[[], Cell]]:
  """Returns a function for each cell, by name, that makes it; most models compile quickly."""
  params, other = (params_of(BACKBONE, seed) for seed in (0, 1))
  rows, plain = tiny.rows(), losses.plain(BACKBONE)
  lamol, deep = (methods.make(b, methods.settings('lamol')) for b in (BACKBONE, DECODER))
  ewc, deep_ewc = (methods.make(b, methods.settings('ewc')) for b in (BACKBONE, DECODER))
  taught = tiny.taught(BACKBONE)
  half = {'gen': 0.5}
  layered, other_layers = (lambda: params_of(DECODER)), (lambda: params_of(DECODER, 1))
  deep_taught, deep_plain = tiny.taught(DECODER), losses.plain(DECODER)
  made = {
    'seq': lambda: Cell(Method(), plain, {}, {}, params, rows),
    'lamol': lambda: Cell(lamol, lamol.loss_fn, {}, half, params, rows),
    'ewc': lambda: Cell(ewc, ewc.loss_fn or plain, tiny.past(other), {'ewc': 0.3}, params, rows),
    'maml': lambda: wrapped(methods.make(BACKBONE, methods.settings_class('maml')(inner_lr=0.3))),
    'interfered': lambda: wrapped(Method(objective=most_interfered('ce', 2, 0.5))),
    'adversarial': lambda: wrapped(
      Method(objective=adversarial(Method().objective, BACKBONE.width, 2, 1))
    ),
    'decoder adversarial': lambda: wrapped(
      Method(objective=adversarial(Method().objective, DECODER.width, 0.5, 1)), DECODER, FEW
    ),
    'inner step': lambda: Cell(tiny.inner_step(BACKBONE), plain, {}, {}, params, rows),
    'taught': lambda: Cell(taught, taught.loss_fn, other, {'mse': 0.5}, params, rows),
    'combined': lambda: grouped(BACKBONE, params, other),
    'decoder combined': lambda: grouped(DECODER, layered(), other_layers(), FEW),
    'head': lambda: Cell(
      Method(), losses.plain(HEAD), {}, {}, tiny.params(HEAD), tiny.class_rows(), 3, HEADS
    ),
    'derpp': lambda: compared('derpp', BACKBONE, params, other),
    'distill': lambda: compared('distill', BACKBONE, params, other),
    'lamol_kd': lambda: compared('lamol_kd', BACKBONE, params, other),
    'derpp cached': lambda: cached(compared('derpp', BACKBONE, params, other), BACKBONE),
    'lamol_kd cached': lambda: cached(compared('lamol_kd', BACKBONE, params, other), BACKBONE),
    'lamol_kd gathered': lambda: dataclasses.replace(
      compared('lamol_kd', BACKBONE, params, other), gathers=True
    ),
    'decoder lamol_kd': lambda: compared('lamol_kd', DECODER, layered(), other_layers(), FEW),
    'lamol_kd published': lambda: compared(
      'lamol_kd', BACKBONE, params, other, published_kd_mask=True
    ),
    'derpp stored': lambda: stored(
      compared('derpp', BACKBONE, params, other, targets='stored'), BACKBONE
    ),
    'decoder elder': lambda: compared(
      'distill',
      DECODER,
      layered(),
      tiny.params(ELDER),
      FEW,
      external_teacher=ExternalTeacher(ELDER, {}),
      teacher_path='elder',
    ),
    # Models whose layers are stacked: each layer's shards become whole inside the scan.
    'decoder': lambda: Cell(
      deep, deep.loss_fn, {}, half, layered(), rows, ways=('1', '8', '8 fsdp', '8 fsdp k4', LONGER)
    ),
    'decoder ewc': lambda: Cell(
      deep_ewc, deep_plain, tiny.past(other_layers()), {'ewc': 0.3}, layered(), rows, ways=FEW
    ),
    'decoder inner step': lambda: Cell(
      tiny.inner_step(DECODER), deep_plain, {}, {}, layered(), rows, ways=FEW
    ),
    'decoder taught': lambda: Cell(
      deep_taught, deep_taught.loss_fn, other_layers(), {'mse': 0.5}, layered(), rows, ways=FEW
    ),
    # Masks along the dimension that is split, and along the layers.
    'masked maml': lambda: dataclasses.replace(
      wrapped(methods.make(BACKBONE, methods.settings_class('maml')(inner_lr=0.3))),
      rules=(('mix', np.arange(16) < 5), ('embed', np.arange(32) % 3 == 0), ('.*', True)),
    ),
    'decoder masked': lambda: Cell(
      tiny.inner_step(DECODER),
      deep_plain,
      {},
      {},
      layered(),
      rows,
      ways=FEW,
      rules=(
        ('layers/(q|k|v|o|gate|up)/kernel', np.eye(2)[1][:, None] * np.ones(16)),
        ('.*', True),
      ),
    ),
    'decoder adapter': lambda: Cell(
      Method(),
      deep_plain,
      {},
      {},
      adapters(DECODER),
      rows,
      ways=FEW,
      rules=(('lora/.*/[ab]$', True),),
    ),
    'encoder': lambda: Cell(
      Method(),
      losses.plain(ENCODER),
      {},
      {},
      tiny.params(ENCODER),
      tiny.class_rows(),
      3,
      HEADS,
      ways=('1', '8 fsdp', LONGER),
    ),
  }
  assert sorted(made) == sorted(CELLS)
  return made


def wrapped(method: Method, backbone=BACKBONE, ways=('1', '3', '8', '8 fsdp')) -> Cell:
  """A method that wraps the objective of plain fine-tuning; it refuses microbatches."""
  plain, params = losses.plain(backbone), params_of(backbone)
  return Cell(method, plain, {}, {}, params, tiny.rows(), ways=ways)


def product(one, other):
  """Σ over all entries."""
  return jax.tree.reduce(jnp.add, jax.tree.map(lambda x, y: jnp.sum(x * y), one, other))


def grouped(backbone, params: dict, teacher: dict, ways=SOME) -> Cell:
  """A method that combines two gradients by their products over whole leaves."""

  def combine(gradients, teacher_params):
    new, old = gradients['new'], gradients['old']
    share = 0.5 + product(new, old) / (product(new, new) + product(old, old))
    share = share + 0.1 * product(old, teacher_params) / jnp.sqrt(product(old, old) + 1)
    return jax.tree.map(lambda n, o: n + share * o, new, old)

  method, weights = tiny.taught(backbone)._replace(combine=combine), {'mse': 0.5}
  groups = Groups.of({'ce': 'new', 'mse': 'old'})
  return Cell(
    method, method.loss_fn, teacher, weights, params, tiny.rows(), ways=ways, groups=groups
  )


def compared(
  name: str, backbone, params: dict, teacher: dict, ways=SOME, external_teacher=None, **given
) -> Cell:
  """A method that looks at a teacher, which is whole."""
  method = methods.make(backbone, methods.settings_class(name)(**given), external_teacher)
  weights = {'old': 0.7, 'mse': 0.5, 'kd': 0.5, 'gen': 0.5, 'kd_gen': 0.25}
  return Cell(method, method.loss_fn, teacher, weights, params, tiny.rows(), ways=ways)


def cached(cell: Cell, backbone) -> Cell:
  """The same with the teacher's states in the batch."""
  one = lambda row: layout([row], 1, Shape(1, 20, len(row.targets)))
  states = {r.number: backbone.hidden(cell.teacher, one(r)) for r in cell.rows if r.replay}
  tables = {'teacher_hidden': table(states, (backbone.width,))}
  return dataclasses.replace(cell, teacher=backbone.unembedding(cell.teacher), tables=tables)


def stored(cell: Cell, backbone) -> Cell:
  """The same with the teacher's logits in the batch, and no teacher."""
  one = lambda row: layout([row], 1, Shape(1, 20, len(row.targets)))
  logits = {r.number: backbone.logits(cell.teacher, one(r)) for r in cell.rows if r.replay}
  tables = {'teacher_logits': table(logits, (backbone.outputs,))}
  return dataclasses.replace(cell, teacher={}, tables=tables)


def adapters(backbone) -> dict:
  """Parameters with an adapter of rank 2 on queries and values."""
  params, random = tiny.params(backbone), np.random.default_rng(2)
  draw = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
  outs = {name: params['layers'][name]['kernel'].shape[2] for name in 'qv'}
  adapter = {
    name: {'a': draw(2, 2, 16), 'b': draw(2, 2, out), 'scale': jnp.full(2, 0.5)}
    for name, out in outs.items()
  }
  return {**params, 'lora': {'layers': adapter}}


def flat(tree) -> np.ndarray:
  """All leaves in one vector."""
  return np.concatenate([np.ravel(distributed.fetch(x)) for x in jax.tree.leaves(tree)])


def ready(cell: Cell, way: str, count: int):
  """The cell's batch of its first `count` rows, and its trees, on the mesh."""
  devices, sharded, microbatches = WAYS.get(way.removesuffix(' packed'), WAYS['8'])
  mesh = sharding.make_mesh(devices)
  blocks = devices * microbatches
  shape = Shape(-(-13 // blocks) * blocks, 32 if way == LONGER else 20, 64)
  rows = cell.rows[:count]
  if way.endswith('packed'):
    (packed,) = packed_rungs([cell.rows], blocks, 13, 16)
    shape = packed._replace(targets=64)
  batch = layout(rows, blocks, shape, tiny.keys(len(rows)), cell.tables, cell.heads)
  trained, frozen, masks = trainable.split(cell.params, cell.rules)
  put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, sharded))
  how = dict(fsdp=sharded, tasks=cell.tasks, microbatches=microbatches)
  batch = sharding.place_batch(batch, mesh)
  return mesh, how, put(trained), put(frozen), sharding.place(masks, mesh), put(cell.teacher), batch


def gradients(out: dict, name: str, way: str) -> None:
  """Loss, terms and the gradient of each, of many rows, and of so few that most devices have none.

  A term's gradient is taken apart, with the weights of all others 0.
  """
  cell = cell_of(name)
  losses.FEW = 0 if cell.gathers else FEW_LOGITS
  fn = None
  for count in (13, 3):
    mesh, how, trained, frozen, masks, teacher, batch = ready(cell, way, count)
    fn = fn or jax.jit(train_step.make_gradient(cell.method, cell.loss_fn, mesh, **how))
    call = lambda weights, a=(trained, frozen, teacher), rest=(batch, cell.groups, masks): fn(
      *a, weights, *rest
    )
    terms = sorted(jax.eval_shape(call, {})[0][1])
    weights = {term: np.float32(cell.weights.get(term, 1)) for term in terms}
    (loss, values), grads = jax.block_until_ready(call(weights))
    out[f'{name}/{way}/{count}/loss'] = np.asarray(loss)
    out[f'{name}/{way}/{count}/gradient'] = flat(grads)
    for term in terms:
      out[f'{name}/{way}/{count}/term {term}'] = np.asarray(values[term])
      only = {t: np.float32(t == term) for t in terms}
      grads = jax.block_until_ready(call(only))[1]
      out[f'{name}/{way}/{count}/gradient of {term}'] = flat(grads)


def memory(out: dict) -> None:
  """Bytes that a gradient of many weights and few tokens needs beside its arguments and results."""
  config = dataclasses.replace(tiny.CONFIG, width=64, head_dim=16, feed_forward=1024, layers=12)
  backbone = decoder(config)
  params, mesh = tiny.params(backbone), sharding.make_mesh(8)
  batch = layout(tiny.rows(8, longest=6), 8, Shape(8, 8, 8), tiny.keys(8))
  for way, sharded in (('8', False), ('8 fsdp', True)):
    method = Method()
    fn = jax.jit(train_step.make_gradient(method, losses.plain(backbone), mesh, fsdp=sharded))
    trained, frozen, _ = trainable.split(params, (('.*', True),))
    abstract = sharding.outline(trained, mesh, sharding.specs(trained, mesh, sharded))
    compiled = fn.lower(abstract, frozen, {}, {}, sharding.place_batch(batch, mesh)).compile()
    out[f'memory/{way}'] = np.asarray(compiled.memory_analysis().temp_size_in_bytes)
  out['memory/params'] = np.asarray(sum(x.nbytes for x in jax.tree.leaves(params)))


def training(out: dict, way: str) -> None:
  """Parameters and a moving teacher after three steps, clipping, decay and a projection on."""
  cell = cell_of('lamol')
  blend = lambda t, p: jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, t, p)

  def project(updates, params, teacher_params, step):
    share = product(updates, teacher_params) / product(teacher_params, teacher_params)
    share = share + 1e-3 * product(params, teacher_params)
    return jax.tree.map(lambda u, t: u - share * t, updates, teacher_params)

  method = cell.method._replace(
    after_step=lambda teacher, params, step: (blend(teacher, params), params), project=project
  )
  mesh, how, trained, frozen, masks, teacher, batch = ready(
    dataclasses.replace(cell, teacher=tiny.params(BACKBONE, 1)), way, 13
  )
  optimizer = make_optimizer(TrainConfig(clip_norm=0.5, weight_decay=0.1))
  own = lambda tree: jax.tree.map(jnp.array, tree)  # the step donates
  state = {
    'params': own(trained), 'optimizer': jax.jit(optimizer.init)(trained), 'teacher': own(teacher),
    'step': sharding.place(np.int32(0), mesh),
  }  # fmt: skip
  step = train_step.make_step(method, cell.loss_fn, optimizer, mesh, **how)
  for _ in range(3):
    state, metrics = step(state, (frozen, masks, {}), cell.weights, np.float32(1e-2), batch)
    jax.block_until_ready(metrics)
  out[f'training/{way}/params'] = flat(state['params'])
  out[f'training/{way}/teacher'] = flat(state['teacher'])
  out[f'training/{way}/norm'] = np.asarray(metrics['gradient_norm'])
  if how['fsdp']:
    sharded = [not x.sharding.is_fully_replicated for x in jax.tree.leaves(state['params'])]
    moments = [
      not x.sharding.is_fully_replicated for x in jax.tree.leaves(state['optimizer']) if x.ndim > 1
    ]
    out['training/sharded'] = np.array([np.mean(sharded), np.mean(moments)])


TOOLS = tiny.tools(examples=7)
LOGITS = TOOLS.backbone.logits
IMPORTANCE = {
  'empirical': fisher.squared_gradient(fisher.answer_nats(TOOLS.backbone)),
  'sampled': fisher.squared_gradient(fisher.answer_nats(TOOLS.backbone, 'sampled', 'sum')),
  'outputs': fisher.absolute_gradient(fisher.output_size(TOOLS.backbone)),
}


def folds(out: dict, devices: int) -> None:
  """Samples, maps and means of `tools`."""
  talker = tiny.tools(devices=devices, make=tiny.small_decoder, examples=7)
  examples = [e for t in talker.stream.tasks for e in t.train]
  prompts = [talker.text.prompt(e) for e in examples]
  params, key = talker.backbone.init(jax.random.key(0)), talker.key('test')
  out[f'samples/{devices}'] = talker.sample(
    params, prompts, key, first=3, k=5, temperature=2.0, max_new=9
  )
  tools = tiny.tools(devices=devices, examples=7)
  params = tiny.params(tools.backbone)
  rows = [r for item in tools.rows(examples) for r in item]
  out[f'map/{devices}'] = np.concatenate(tools.map_targets(LOGITS, params, rows))
  for name, fn in IMPORTANCE.items():
    out[f'{name}/{devices}'] = flat(tools.mean_examples(fn, params, examples))
  batches = tools.mean_examples(IMPORTANCE['empirical'], params, examples, together=4)
  out[f'of batches/{devices}'] = flat(batches)


def ways_of(name: str, every: bool) -> tuple[str, ...]:
  """The ways in which a cell is computed."""
  ways = cell_of(name).ways if every else (*FEW, *MORE.get(name, ()))
  if every:
    ways += (PARTS_PACKED if '8 fsdp k4' in ways and name != 'inner step' else PACKED,)
  if name == 'inner step':  # which refuses microbatches
    ways = tuple(way for way in ways if WAYS[way.removesuffix(' packed')][2] == 1)
  return tuple(dict.fromkeys(ways))


def main(path: str, every: bool = False) -> None:
  """Computes everything and writes it."""
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  assert len(jax.devices()) == 8
  out: dict[str, np.ndarray] = {}
  for name in CELLS if every else QUICK:
    for way in ways_of(name, every):
      gradients(out, name, way)
  if every:
    np.savez(path, **out)
    return
  for way in ('1', '3', '8', '8 fsdp'):
    training(out, way)
  memory(out)
  for devices in (1, 8):
    folds(out, devices)
  np.savez(path, **out)


if __name__ == '__main__':
  main(sys.argv[1], 'every' in sys.argv[2:])
