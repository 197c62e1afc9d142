"""Broken rows, heads, losses and steps."""

from scorecard.mutant import Mutant
from scorecard.mutant import cells as _cells

ROWS = (
  Mutant(
    'targets shifted by one', 'batching/text_formats.py',
    'Row(tokens, targets, tokens[targets + 1]', 'Row(tokens, targets - 1, tokens[targets + 1]',
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
    "arrays['replay'][at] = length, row.replay",
    "arrays['replay'][at] = length, not row.replay",
    _cells('value/derpp', 'empty/lamol_kd'),
  ),
  Mutant(
    'generation rows are not told apart', 'batching/batch.py',
    "arrays['task'][at] = row.generative, row.task",
    "arrays['task'][at] = False, row.task",
    _cells('value/lamol', 'empty/lamol'),
  ),
  Mutant(
    'states of the teacher go to other targets', 'batching/batch.py',
    'fields[name][b, start:end] = found', 'fields[name][b, start:end] = found[::-1]',
    _cells('value/derpp', 'teacher/lamol_kd'),
  ),
  Mutant(
    'rows of a line see each other', 'backbones/decoder.py',
    'same_BTS & jnp.tri(length, dtype=bool)[None]',
    'same_BTS | jnp.tri(length, dtype=bool)[None]',
    _cells('packed/lora'),
  ),
  Mutant(
    'positions run on in a line', 'batching/batch.py',
    '= place, np.arange(length)', '= place, first + np.arange(length)',
    _cells('packed/seq'),  # rotary positions are relative: a decoder of theirs sees no difference
  ),
  Mutant(
    'the rows of a line are one row', 'batching/batch.py',
    "arrays['target_row'][block, targets] = place",
    "arrays['target_row'][block, targets] = line",
    _cells('packed/derpp', 'packed/lamol'),
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
    'np.asarray(self.membership[: self.current + 1].any(0))',
    'np.asarray(self.membership[: self.current + 2].any(0))',
    _cells('head/seq', 'head/ewc'),
  ),
  Mutant(
    'the teacher knows the classes under way', 'batching/batch.py',
    '& self.membership[: self.current].any(0)', '& self.membership[: self.current + 1].any(0)',
    _cells('head/derpp', 'head/distill'),
  ),
  Mutant(
    'classes that may not be answered matter', 'memory/fisher.py',
    '      logits_MV = jnp.where(allowed_MV, logits_MV, 0)\n', '      pass\n',
    _cells('head/mas'),
  ),
  Mutant(
    'a class belongs to the first task that has it', 'batching/batch.py',
    "arrays['allowed'][block, targets] = allowed\n",
    "arrays['allowed'][block, targets] = allowed & (heads.membership.argmax(0) == row.task)\n",
    _cells('shared_classes/seq', 'shared_classes/derpp'),
  ),
  Mutant(
    'the means of tasks are one mean', 'step/losses.py',
    '  if not tasks:\n    return value_M.sum(), weight_M.sum()\n',
    '  if True:\n    return value_M.sum(), weight_M.sum()\n',
    _cells('shared_classes/replay'),
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
    '/ temperature)\n    for x in (logits_MV, jax.lax.stop_gradient(teacher_MV))',
    '/ temperature)\n    for x in (logits_MV, teacher_MV)',
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
    '      sums, counts = summed(_totals(terms, batch, tasks))\n',
    '      sums, counts = _totals(terms, batch, tasks)\n'
    '      sums = {k: lax.pmean(_ratio(s, counts[k]), AXIS) for k, s in sums.items()}\n'
    '      counts = {k: jnp.ones_like(s) for k, s in sums.items()}\n',
    _cells('devices/seq', 'devices/lamol'),
  ),
  Mutant(
    'targets are counted per device', 'step/train_step.py',
    '      sums, counts = summed(_totals(terms, batch, tasks))\n',
    '      sums, counts = _totals(terms, batch, tasks)\n'
    '      sums, counts = lax.psum(sums, AXIS), lax.pmax(counts, AXIS)\n',
    _cells('devices/replay'),
  ),
  Mutant(
    'the penalty is taken on shards', 'step/train_step.py',
    '{**method.penalty_fn(whole, teacher_params), **norms(counted(trained, masks))}\n',
    'jax.shard_map(\n'
    '        lambda *x: lax.pmean(method.penalty_fn(join(*x[:2]), x[2]), AXIS), mesh=mesh,\n'
    '        in_specs=tuple(specs(t, mesh, fsdp) for t in (trained, frozen, teacher_params)),\n'
    '        out_specs=P(), check_vma=False,\n'
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
    'jax.tree.map(lambda u, m: -rate * u * m, updates, masks)',
    'jax.tree.map(lambda u, m: -rate * (u + 1.0), updates, masks)',
    _cells('moves/olora'),
  ),
)  # fmt: skip

DIRECTIONS = (
  Mutant(
    'inner steps move what is frozen', 'step/train_step.py',
    'trained = held(trained, masks)', 'trained = held(trained, {})',
    _cells('masked/(shared)'),
  ),
  Mutant(
    'norms count what is frozen', 'step/train_step.py',
    'norms(counted(trained, masks))', 'norms(trained)',
    _cells('masked/(shared)'),
  ),
  Mutant(
    'every group has the gradient of all groups', 'step/groups.py',
    'jnp.ones_like(v) if k == name else jnp.zeros_like(v)', 'jnp.ones_like(v)',
    _cells('combine/agem'),
  ),
  Mutant(
    'gradients are combined on shards', 'step/train_step.py',
    'grads = combined(method.combine, by_group, teacher_params)\n',
    'grads = jax.shard_map(\n'
    '      lambda *x: combined(method.combine, *x), mesh=mesh,\n'
    '      in_specs=(specs(by_group, mesh, fsdp), specs(teacher_params, mesh, fsdp)),\n'
    '      out_specs=specs(trained, mesh, fsdp), check_vma=False,\n'
    '    )(by_group, teacher_params)\n',
    _cells('combine/agem'),
  ),
  Mutant(
    'groups of microbatches are combined as the largest of the devices', 'step/train_step.py',
    'g if AXIS in spec else summed(g), tree, own',
    'g if AXIS in spec else lax.pmax(g, AXIS), tree, own',
    _cells('combine/agem', 'split/seq'),
  ),
  Mutant(
    'A-GEM bends where the gradients agree', 'methods/agem.py',
    'jnp.where(product < 0,', 'jnp.where(product > 0,',
    _cells('combine/agem'),
  ),
  Mutant(
    'A-GEM bends by the length of the new gradient', 'methods/agem.py',
    '_dot(new, old), _dot(old, old)', '_dot(new, old), _dot(new, new)',
    _cells('combine/agem'),
  ),
  Mutant(
    'updates are projected before the learning rate', 'step/train_step.py',
    "projected = method.project(updates, whole, teacher_params, state['step'])\n",
    'raw = jax.tree.map(lambda u: -u / rate, updates)\n'
    "      projected = method.project(raw, whole, teacher_params, state['step'])\n"
    '      projected = jax.tree.map(lambda u: -rate * u, projected)\n',
    _cells('project/(shared)'),
  ),
  Mutant(
    'updates are projected on shards', 'step/train_step.py',
    "projected = method.project(updates, whole, teacher_params, state['step'])\n",
    'own = lambda tree: specs(tree, mesh, how.get("fsdp", False))\n'
    "      trees = updates, whole, teacher_params, state['step']\n"
    '      projected = jax.shard_map(\n'
    '        method.project, mesh=mesh, in_specs=tuple(map(own, trees)), out_specs=own(updates),\n'
    '        check_vma=False,\n'
    '      )(*trees)\n',
    _cells('project/(shared)'),
  ),
  Mutant(
    'the projection is forgotten', 'step/train_step.py',
    '      updates = projected\n', '      pass\n',
    _cells('project/(shared)'),
  ),
)  # fmt: skip

MEASURED = (
  '            inputs, step = self._step(inputs, loaded, loader, task)\n'
  '            flight.append(step)\n',
  '            if self.gradient_norms.due(loaded):\n'
  '              land(0)\n'
  '              self._measure(task, inputs, loaded, loader.total)\n',
)
TERMS = (
  Mutant(
    'the other terms keep their weights', 'step/term_norms.py',
    'nothing = dict.fromkeys(weights, np.float32(0))', 'nothing = dict(weights)',
    _cells('terms/(shared)'),
  ),
  Mutant(
    'the gradient of a term is measured without its weight', 'step/term_norms.py',
    '{**nothing, term: weights[term]}', '{**nothing, term: np.float32(1)}',
    _cells('terms/(shared)'),
  ),
  Mutant(
    'the square of the norm is measured', 'step/term_norms.py',
    'optax.tree.norm(grads)', 'optax.tree.norm(grads, squared=True)',
    _cells('terms/(shared)'),
  ),
  Mutant(
    'what is frozen counts in the norm', 'step/term_norms.py',
    'weights, batch, masks=masks)', 'weights, batch)',
    _cells('terms/(shared)'),
  ),
  Mutant(
    'the norm is that of the shards of one device', 'step/term_norms.py',
    'return optax.tree.norm(grads)',
    'from jcl.step.sharding import WHOLE, specs\n'
    '    own = specs(params, mesh, how.get("fsdp", False))\n'
    '    return jax.shard_map(\n'
    '      optax.tree.norm, mesh=mesh, in_specs=(own,), out_specs=WHOLE, check_vma=False\n'
    '    )(grads)',
    _cells('terms/(shared)'),
  ),
  Mutant(
    'weights of the plan are not those of the measure', 'training/gradient_norms.py',
    'inputs.weights.get(term, np.float32(1))', 'np.float32(1)',
    _cells('terms/(shared)'),
  ),
  Mutant(
    'norms are measured a step late', 'training/gradient_norms.py',
    '(loaded.number + 1 - FIRST)', '(loaded.number - FIRST)',
    _cells('terms/(shared)'),
  ),
  Mutant(
    'norms are of the parameters before the step', 'training/task_trainer.py',
    MEASURED[0] + MEASURED[1], MEASURED[1] + MEASURED[0],
    _cells('terms/(shared)'),
  ),
)  # fmt: skip
