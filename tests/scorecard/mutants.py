"""Broken versions of the code: each must turn a cell red by a wrong figure.

A mutant replaces a text that stands exactly once in a file of `jcl/`. It runs the cells that it
concerns and no others; one that no longer fits the code is a failure of its own.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
  """A defect.

  Attributes:
    name: what is wrong.
    file: under `jcl/`.
    old, new: the text and what takes its place.
    cells: (check, method), …
  """

  name: str
  file: str
  old: str
  new: str
  cells: tuple[tuple[str, str], ...]


def _cells(*cells: str) -> tuple[tuple[str, str], ...]:
  """'check/method', …"""
  return tuple(tuple(cell.split('/')) for cell in cells)


ROWS = (
  Mutant(
    'targets shifted by one', 'batching/text_formats.py',
    'np.arange(first - 1, len(ids) - 1)', 'np.arange(first - 2, len(ids) - 2)',
    _cells('value/seq', 'tasks/seq'),
  ),
  Mutant(
    'generation starts from the answer token', 'batching/text_formats.py',
    'self.generation_token(example.task)', 'self._answer',
    _cells('value/lamol'),
  ),
  Mutant(
    'raw text predicts what it shows', 'batching/packed_text.py',
    'for at in (start, start + 1)', 'for at in (start, start)',
    _cells('value/pretrain', 'tasks/pretrain'),
  ),
  Mutant(
    'the replay mask is inverted', 'batching/batch.py',
    'batch.length[at], batch.replay[at] = length, row.replay',
    'batch.length[at], batch.replay[at] = length, not row.replay',
    _cells('value/derpp', 'empty/lamol_kd'),
  ),
  Mutant(
    'generation rows are not told apart', 'batching/batch.py',
    'batch.generative[at], batch.task[at] = row.generative, row.task',
    'batch.generative[at], batch.task[at] = False, row.task',
    _cells('value/lamol', 'empty/lamol'),
  ),
  Mutant(
    'states of the teacher go to other targets', 'batching/batch.py',
    'fields[name][b, start:end] = found', 'fields[name][b, start:end] = found[::-1]',
    _cells('value/derpp', 'teacher/lamol_kd'),
  ),
  Mutant(
    'a target of weight 0 counts', 'step/losses.py',
    'weight_M = jnp.where(where_M, batch.target_weight, 0)',
    'weight_M = jnp.where(where_M, jnp.ones_like(batch.target_weight), 0)',
    _cells('padding/seq', 'mask/seq', 'mask/lamol'),
  ),
  Mutant(
    'a masked target stays in the count', 'batching/batch.py',
    'return self.replace(target_weight=jnp.where(where_M, self.target_weight, 0))',
    'return self.replace(target_weight=jnp.where(where_M, self.target_weight, 1e-3))',
    _cells('mask/replay'),
  ),
)  # fmt: skip

HEADS = (
  Mutant(
    'the class mask is off by one', 'batching/batch.py',
    'return self.class_task == task if self.task_id_given else self.class_task <= self.current',
    'return self.class_task == task if self.task_id_given else self.class_task <= self.current + 1',
    _cells('head/seq', 'head/ewc'),
  ),
  Mutant(
    'the teacher knows the classes under way', 'batching/batch.py',
    'allowed & (heads.class_task < heads.current)', 'allowed & (heads.class_task <= heads.current)',
    _cells('head/derpp', 'head/distill'),
  ),
  Mutant(
    'classes that may not be answered matter', 'memory/fisher.py',
    '      logits_MV = jnp.where(allowed_MV, logits_MV, 0)\n', '      pass\n',
    _cells('head/mas'),
  ),
)  # fmt: skip

LOSSES = (
  Mutant(
    'KL reversed', 'step/losses.py',
    '(jnp.exp(teacher_MV) * (teacher_MV - log_MV)).sum(-1)',
    '(jnp.exp(log_MV) * (log_MV - teacher_MV)).sum(-1)',
    _cells('kd/distill', 'kd/lamol_kd', 'value/distill'),
  ),
  Mutant(
    'T² dropped', 'step/losses.py',
    'return temperature**2 * (', 'return 1.0 * (',
    _cells('kd/distill', 'value/lamol_kd'),
  ),
  Mutant(
    'a gradient goes into the teacher', 'step/losses.py',
    'for x in (logits_MV, jax.lax.stop_gradient(teacher_MV))', 'for x in (logits_MV, teacher_MV)',
    _cells('teacher/distill'),
  ),
  Mutant(
    'the squared error is a sum over the vocabulary', 'step/losses.py',
    'return jnp.square(apart_MV).mean(-1)', 'return jnp.square(apart_MV).sum(-1)',
    _cells('value/derpp'),
  ),
  Mutant(
    'the normaliser has no gradient', 'step/losses.py',
    'return jax.nn.logsumexp(logits_MV, -1) - wanted_M',
    'return jax.lax.stop_gradient(jax.nn.logsumexp(logits_MV, -1)) - wanted_M',
    _cells('gradient/seq', 'gradient/lora'),
  ),
  Mutant(
    'a mean over nothing is 0/0', 'step/train_step.py',
    'return jnp.sum(sums / jnp.where(counts > 0, counts, 1))', 'return jnp.sum(sums / counts)',
    _cells('empty/seq'),
  ),
  Mutant(
    'a sum starts above 0', 'step/losses.py',
    'return value_M.sum(), weight_M.sum()',
    'return value_M.sum() + 1e-3, weight_M.sum()',
    _cells('empty/lamol', 'devices/lamol'),
  ),
)  # fmt: skip

STEP = (
  Mutant(
    'a mean of the means of devices', 'step/train_step.py',
    '      sums, counts = lax.psum(_totals(terms, batch, tasks), AXIS)\n',
    '      sums, counts = _totals(terms, batch, tasks)\n'
    '      sums = {k: lax.pmean(_ratio(s, counts[k]), AXIS) for k, s in sums.items()}\n'
    '      counts = {k: jnp.ones_like(s) for k, s in sums.items()}\n',
    _cells('devices/seq', 'devices/lamol'),
  ),
  Mutant(
    'targets are counted per device', 'step/train_step.py',
    '      sums, counts = lax.psum(_totals(terms, batch, tasks), AXIS)\n',
    '      sums, counts = _totals(terms, batch, tasks)\n'
    '      sums, counts = lax.psum(sums, AXIS), lax.pmax(counts, AXIS)\n',
    _cells('devices/replay'),
  ),
  Mutant(
    'the penalty is taken on shards', 'step/train_step.py',
    '{**method.penalty_fn(join(trained, frozen), teacher_params), **norms(trained)}\n',
    'jax.shard_map(\n'
    '        lambda *x: lax.pmean(method.penalty_fn(join(*x[:2]), x[2]), AXIS),\n'
    '        mesh=mesh, in_specs=(own, rest, theirs), out_specs=P(), check_vma=False,\n'
    '      )(trained, frozen, teacher_params)\n',
    _cells('devices/ewc', 'devices/l2'),
  ),
  Mutant(
    'the gradient of the penalty is left out', 'step/train_step.py',
    'return (loss + extra, values), jax.tree.map(jnp.add, grads, more)',
    'return (loss + extra, values), grads',
    _cells('gradient/l2', 'moves/ewc'),
  ),
  Mutant(
    'weights are forgotten', 'step/train_step.py',
    'weights.get(k, 1.0) * v for k, v', '1.0 * v for k, v',
    _cells('value/lamol', 'neutral/distill'),
  ),
  Mutant(
    'a mean of the means of microbatches', 'step/train_step.py',
    '      sums, _ = _totals(plain(params, part), part, tasks)\n',
    '      sums, mine = _totals(plain(params, part), part, tasks)\n'
    '      sums = {k: s * counts[k] / jnp.maximum(mine[k], 1) / microbatches\n'
    '              for k, s in sums.items()}\n',
    _cells('split/seq', 'split/derpp'),
  ),
  Mutant(
    'the last microbatch alone has a gradient', 'step/train_step.py',
    'return jax.tree.map(jnp.add, carry, (sums, grads)), None',
    'return (jax.tree.map(jnp.add, carry[0], sums), grads), None',
    _cells('split/lamol'),
  ),
  Mutant(
    'what is frozen trains', 'step/train_step.py',
    '    updates = jax.tree.map(lambda u: -rate * u, mask(updates))\n',
    '    updates = jax.tree.map(lambda u: -rate * (u + 1.0), updates)\n',
    _cells('moves/olora'),
  ),
)  # fmt: skip

PAST = (
  Mutant(
    'the teacher is stale from the third task on', 'memory/teacher.py',
    "  table = batches.table(of_row, (backbone.width,))\n",
    "  table = batches.table(of_row, (backbone.width,))\n"
    "  if tools.task_index > 1:\n"
    "    return {'teacher': memory['teacher'], 'tables': {HIDDEN: table}}\n",
    _cells('tasks/distill', 'value/derpp', 'teacher/lamol_kd'),
  ),
  Mutant(
    'what the first task gave the step stays', 'training/step_inputs.py',
    'theirs = put(teacher, True)',
    "theirs = globals().setdefault(f'kept {id(parts)}', put(teacher, True))",
    _cells('tasks/ewc', 'tasks/lamol_kd'),
  ),
  Mutant(
    'states of the teacher are those of training', 'memory/teacher.py',
    'tools.map_targets(backbone.hidden, params, moved,',
    'tools.map_targets(lambda p, b: backbone.hidden(p, b, train=True), params, moved,',
    _cells('teacher/derpp'),
  ),
  Mutant(
    'dropout is on in the Fisher', 'memory/fisher.py',
    '    hidden_MD = backbone.hidden(params, batch)\n    rest =',
    '    hidden_MD = backbone.hidden(params, batch, train=True)\n    rest =',
    _cells('fisher/ewc'),
  ),
  Mutant(
    'the Fisher is the square of a mean over a chunk', 'training/hook_tools.py',
    'groups = _cut(self.rows([examples[i] for i in order]), together)',
    'groups = _cut(self.rows([examples[i] for i in order]), max(together, self.batch_size // 4))',
    _cells('fisher/ewc', 'fisher/mas'),
  ),
  Mutant(
    'the Fisher sums the examples of one device', 'step/device_maps.py',
    'return lax.psum(lax.scan(add, blank, chunks)[0], AXIS)',
    'return lax.pmax(lax.scan(add, blank, chunks)[0], AXIS)',
    _cells('fisher/ewc'),
  ),
  Mutant(
    'the Fisher is not squared', 'memory/fisher.py',
    'return jax.tree.map(jnp.square, jax.grad(fn)(params, batch))',
    'return jax.tree.map(jnp.abs, jax.grad(fn)(params, batch))',
    _cells('value/ewc'),
  ),
  Mutant(
    'importance is squared', 'memory/fisher.py',
    'return jax.tree.map(jnp.abs, jax.grad(fn)(params, batch))',
    'return jax.tree.map(jnp.square, jax.grad(fn)(params, batch))',
    _cells('value/mas', 'tasks/mas'),
  ),
  Mutant(
    'the penalty is made of detached data', 'memory/fisher.py',
    'lambda p, f, a: jnp.sum(f * jnp.square(p - a))',
    'lambda p, f, a: jnp.sum(f * jnp.square(jax.lax.stop_gradient(p) - a))',
    _cells('moves/ewc', 'moves/mas', 'gradient/l2'),
  ),
  Mutant(
    'the anchor of merged quadratics is the last model', 'memory/fisher.py',
    'lambda a, p, s: (1 - s) * a + s * p', 'lambda a, p, s: p',
    _cells('value/ewc', 'tasks/ewc'),
  ),
  Mutant(
    'the constant of merged quadratics is dropped', 'memory/fisher.py',
    "new), 'anchor': anchor, 'constant': rest,", "new), 'anchor': anchor, 'constant': 0 * rest,",
    _cells('value/ewc'),
  ),
  Mutant(
    'what the step sees changes its type after the first task', 'memory/fisher.py',
    "new), 'anchor': anchor, 'constant': rest,",
    "new), 'anchor': anchor, 'constant': rest.astype(jnp.float16),",
    _cells('traces/ewc'),
  ),
)  # fmt: skip

METHODS = (
  Mutant(
    'DER++ splits at half of the batch', 'methods/derpp.py',
    'mean_squared_error, batch.replay_M',
    'mean_squared_error, batch.target_row * 2 >= len(batch.length)',
    _cells('order/derpp', 'value/derpp'),
  ),
  Mutant(
    'DER++ gives new rows weight beta', 'methods/derpp.py',
    "'new': s.beta if later else 1.0", "'new': s.beta",
    _cells('neutral/derpp', 'value/derpp'),
  ),
  Mutant(
    'alpha weighs cross-entropy', 'methods/distill.py',
    "weights={'ce': 1 - alpha, 'kd': alpha}", "weights={'ce': alpha, 'kd': 1 - alpha}",
    _cells('neutral/distill', 'value/distill'),
  ),
  Mutant(
    'pseudo rows have cross-entropy too', 'methods/lamol_kd.py',
    "new = {'qa': (ce_M, ~old_M & ~gen_M),", "new = {'qa': (ce_M, ~gen_M),",
    _cells('value/lamol_kd', 'empty/lamol_kd'),
  ),
  Mutant(
    'the first task is distilled, later ones are not', 'methods/distill.py',
    'alpha = settings.alpha if task.index or external_teacher else 0.0',
    'alpha = 0.0 if task.index or external_teacher else settings.alpha',
    _cells('tasks/distill', 'value/distill'),
  ),
  Mutant(
    'weights come with the second task', 'methods/distill.py',
    "weights={'ce': 1 - alpha, 'kd': alpha}",
    "weights={'ce': 1 - alpha, 'kd': alpha} if task.index else {'kd': 0.0}",
    _cells('traces/distill'),
  ),
  Mutant(
    'O-LoRA is orthogonal to itself', 'methods/olora.py',
    'np.arange(memory[\'rank\']) < task.index * settings.r',
    'np.arange(memory[\'rank\']) <= task.index * settings.r',
    _cells('value/olora', 'tasks/olora'),
  ),
  Mutant(
    'L2 is anchored at the last task but one', 'methods/l2.py',
    "return memory | {'teacher': around(params, 1)}, params",
    "return memory | {'teacher': around(memory['teacher']['anchor'], 1)}, params",
    _cells('value/l2', 'tasks/l2'),
  ),
)  # fmt: skip

SHELLS = (
  Mutant(
    'MAML steps down the loss of all rows', 'methods/maml.py',
    'new = batch.only(~batch.replay_M)', 'new = batch',
    _cells('value/maml', 'tasks/maml'),
  ),
  Mutant(
    'MAML of second order is of first', 'methods/maml.py',
    'if settings.first_order:', 'if True:',
    _cells('gradient/maml'),
  ),
  Mutant(
    'a composition counts penalties twice', 'methods/compose.py',
    'return {term: value for terms in values', 'return {term: 2 * value for terms in values',
    _cells('composed/replay', 'composed/lamol'),
  ),
  Mutant(
    'a composition forgets weights', 'methods/compose.py',
    "'weights': united('weights'), 'tables'", "'weights': {}, 'tables'",
    _cells('composed/ewc', 'composed/distill'),
  ),
  Mutant(
    'a new block does what the one before it does', 'backbones/block_expansion.py',
    "'layers': {**copied, **outputs}}", "'layers': copied}",
    _cells('expansion/expand'),
  ),
  Mutant(
    'the blocks of old tasks train too', 'methods/expand.py',
    "('^layers/', memory['new'])", "('^layers/', True)",
    _cells('expansion/expand'),
  ),
)  # fmt: skip

PARTS = (
  Mutant(
    'the reservoir lets the newest in too often', 'memory/buffer.py',
    'integers(place + 1)', 'integers(place)',
    _cells('reservoir/(shared)'),
  ),
  Mutant(
    'the reservoir forgets how many it has seen', 'memory/buffer.py',
    "_reservoir(before, new, buffer['seen'], size, seed)",
    "_reservoir(before, new, len(before), size, seed)",
    _cells('reservoir/(shared)'),
  ),
  Mutant(
    'a quota is of all places', 'memory/buffer.py',
    'quota, count, stay = size // max(len(set(groups)), 1),', 'quota, count, stay = size // 2,',
    _cells('quota/(shared)'),
  ),
  Mutant(
    'the worst examples of a class stay', 'memory/buffer.py',
    'key=lambda i: -keys[i])', 'key=lambda i: keys[i])',
    _cells('quota/(shared)'),
  ),
  Mutant(
    'merged adapters lose their weights', 'backbones/lora_merging.py',
    'np.concatenate([part.weight * part.b_RO for part in parts])',
    'np.concatenate([part.b_RO for part in parts])',
    _cells('merges/(shared)'),
  ),
  Mutant(
    'TIES is a mean where it should grow with its weights', 'backbones/lora_merging.py',
    'return weights_K11.sum() * mean_IO', 'return mean_IO',
    _cells('merges/(shared)'),
  ),
)  # fmt: skip

MUTANTS: tuple[Mutant, ...] = (*ROWS, *HEADS, *LOSSES, *STEP, *PAST, *METHODS, *SHELLS, *PARTS)
