"""Broken memory of the past, methods, compositions and parts that several methods share."""

from scorecard.mutant import Mutant
from scorecard.mutant import cells as _cells

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
    'self.example(examples[i])), together)',
    'self.example(examples[i])), max(together, self.batch_size // 4))',
    _cells('fisher/ewc', 'fisher/mas'),
  ),
  Mutant(
    'the Fisher sums the examples of one device', 'step/device_maps.py',
    'return summed(lax.scan(add, blank, chunks)[0])',
    'return lax.pmax(lax.scan(add, blank, chunks)[0], AXIS)',
    _cells('fisher/ewc'),
  ),
  Mutant(
    'the Fisher is not squared', 'memory/fisher.py',
    'return OfGradient(fn, jnp.square)',
    'return OfGradient(fn, jnp.abs)',
    _cells('value/ewc'),
  ),
  Mutant(
    'importance is squared', 'memory/fisher.py',
    'return OfGradient(fn, jnp.abs)',
    'return OfGradient(fn, jnp.square)',
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
    'alpha = settings.alpha if task.index or always else 0.0',
    'alpha = 0.0 if task.index or always else settings.alpha',
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

FREEZING = (
  Mutant(
    'the model goes on training after the warm-up', 'methods/seq_star.py',
    "warm = step < teacher_params['warm_up']", "warm = step < 2 * teacher_params['warm_up']",
    _cells('freeze/seq_star'),
  ),
  Mutant(
    'the model trains in later tasks', 'methods/seq_star.py',
    "task.index == 0 and settings.warmup_epochs > 0", "settings.warmup_epochs > 0",
    _cells('freeze/seq_star', 'traces/seq_star'),
  ),
  Mutant(
    'the rows of old classes train on', 'methods/seq_star.py',
    "if c not in earlier]", 'if c not in earlier] + sorted(earlier)',
    _cells('freeze/seq_star'),
  ),
  Mutant(
    'only the classes so far compete', 'methods/seq_star.py',
    "allowed=batch.allowed | teacher_params['all']", "allowed=batch.allowed",
    _cells('value/seq_star', 'tasks/seq_star'),
  ),
)  # fmt: skip

KNOBS = (
  Mutant(
    'a gradient goes through the weight of a target', 'step/losses.py',
    'lax.stop_gradient(jnp.exp(-nats_M)) * nats_M', 'jnp.exp(-nats_M) * nats_M',
    _cells('dft/(shared)'),
  ),
  Mutant(
    'every term is weighed by its probability', 'step/losses.py',
    '(probable(value_M) if term in CROSS_ENTROPIES else value_M, where_M)',
    '(probable(value_M), where_M)',
    _cells('dft/(shared)'),
  ),
  Mutant(
    'the anchor moves on with the model', 'methods/distill.py',
    "return memory['base'] if memory['tables'] else memory['teacher']", 'return params',
    _cells('anchor/(shared)'),
  ),
  Mutant(
    'the first task is not held at the base', 'methods/distill.py',
    "always = external_teacher is not None or settings.anchor == 'base'",
    'always = external_teacher is not None',
    _cells('anchor/(shared)'),
  ),
  Mutant(
    'wrong answers of its own replay', 'memory/own_answers.py',
    "keeps = right if settings.keep == 'right'", "keeps = right if settings.keep == ''",
    _cells('own_answers/(shared)'),
  ),
  Mutant(
    'what is not kept is left out', 'memory/own_answers.py',
    "rest if settings.rejected == 'stored' else []", "rest if settings.rejected == '' else []",
    _cells('own_answers/(shared)'),
  ),
  Mutant(
    'the model learns the prompts of its own answers', 'batching/text_formats.py',
    'range(size - 1, len(ids) - 1)', 'range(len(ids) - 1)',
    _cells('own_answers/(shared)'),
  ),
  Mutant(
    'the surest answers are left out', 'memory/own_answers.py',
    'next(means) >= least', 'next(means) <= least',
    _cells('own_answers/(shared)'),
  ),
  Mutant(
    'a cut block begins anew in the next epoch', 'batching/token_lines.py',
    'np.maximum(begins, start) - begins', '0 * begins',
    _cells('corpus/(shared)'),
  ),
  Mutant(
    'targets of a corpus are counted as tokens', 'batching/corpus.py',
    "more = int(unit == 'targets')", 'more = 0',
    _cells('corpus/(shared)'),
  ),
  Mutant(
    'every task has the mix of the first', 'methods/replay.py',
    'mix[min(task, len(mix) - 1)]', 'mix[0]',
    _cells('corpus/(shared)'),
  ),
  Mutant(
    'MagMax takes the entry of the least magnitude', 'backbones/lora_merging.py',
    'np.abs(weighted_KIO).argmax(0)', 'np.abs(weighted_KIO).argmin(0)',
    _cells('merges/(shared)'),
  ),
)  # fmt: skip

AVERAGES = (
  Mutant(
    'every task counts the same in a merge over time', 'methods/slao.py',
    '1 / math.sqrt(tasks)', '1 / tasks',
    _cells('average/slao'),
  ),
  Mutant(
    'the adapter in training answers, not the merge', 'methods/slao.py',
    "'merged': whole, 'learned'", "'merged': params['lora'], 'learned'",
    _cells('average/slao'),
  ),
  Mutant(
    'the average is of its last two parameters', 'methods/ema.py',
    'share = jnp.maximum(1 / (updates + 1), 1 - decay)', 'share = jnp.float32(0.5) + 0 * updates',
    _cells('average/ema', 'tasks/cls_er'),
  ),
  Mutant(
    'the parameters in training are evaluated', 'methods/ema.py',
    "return memory['teacher']['average']", 'return params',
    _cells('average/ema'),
  ),
  Mutant(
    'the fast average is evaluated', 'methods/cls_er.py',
    "return memory['teacher']['slow']", "return memory['teacher']['fast']",
    _cells('average/cls_er'),
  ),
  Mutant(
    'CLS-ER takes the average that is less sure', 'methods/cls_er.py',
    '(slow_M < fast_M)', '(slow_M > fast_M)',
    _cells('value/cls_er', 'tasks/cls_er'),
  ),
  Mutant(
    'new rows stay near the averages too', 'methods/cls_er.py',
    "'mse': (mse_M, old_M)", "'mse': (mse_M, True)",
    _cells('neutral/cls_er', 'value/cls_er'),
  ),
)  # fmt: skip

SUBSPACES = (
  Mutant(
    'moments hold directions that are kept', 'methods/osft.py',
    'return _free(gradient, teacher_params)', 'return gradient',
    _cells('subspace/osft'),
  ),
  Mutant(
    'only the gradient is projected', 'methods/osft.py',
    'return _free(updates, teacher_params)', 'return updates',
    _cells('subspace/osft'),
  ),
  Mutant(
    'the weakest directions are kept', 'methods/osft.py',
    '.set(u_IR[:, :k])', '.set(u_IR[:, -k:])',
    _cells('subspace/osft'),
  ),
  Mutant(
    'what the first task taught is free', 'methods/osft.py',
    "    return memory | {'teacher': tools.fold(",
    "    if task.index:\n      return memory, params\n    return memory | {'teacher': tools.fold(",
    _cells('subspace/osft'),
  ),
)  # fmt: skip

TAUGHT = (
  Mutant(
    'the teacher of a task goes on from the model', 'methods/l2kd.py',
    "memory['base'], alone, past.loss_fn", "params, alone, past.loss_fn",
    _cells('taught/l2kd'),
  ),
  Mutant(
    'the teacher learns only to answer', 'methods/l2kd.py',
    "TaskPlan(task.train, weights={'gen': s.lambda_gen})",
    "TaskPlan(task.train, weights={'gen': 0.0})",
    _cells('taught/l2kd'),
  ),
  Mutant(
    'the model before the task teaches', 'methods/l2kd.py',
    'teacher.freeze(memory, backbone, taught, task.train, tools)',
    'teacher.freeze(memory, backbone, params, task.train, tools)',
    _cells('value/l2kd', 'tasks/l2kd'),
  ),
  Mutant(
    'pseudo samples are distilled too', 'methods/l2kd.py',
    "(kd_M, own_M & ~old_M)", "(kd_M, own_M)",
    _cells('value/l2kd', 'tasks/l2kd'),
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
    "name: part.penalty_fn(params, teacher_params[name])",
    "name: {k: 2 * v for k, v in part.penalty_fn(params, teacher_params[name]).items()}",
    _cells('composed/replay', 'composed/lamol'),
  ),
  Mutant(
    'a composition forgets weights', 'methods/compose.py',
    "fields[field] = _merged(f'TaskPlan.{field}', found)",
    "fields[field] = {} if field == 'weights' else _merged(field, found)",
    _cells('composed/ewc', 'composed/distill'),
  ),
  Mutant(
    'hooks of a composition run in the order of names', 'methods/compose.py',
    "order = sorted(parts, key=changing, reverse=field == 'after_task')", 'order = sorted(parts)',
    _cells('orders/lamol', 'orders/reptile'),
  ),
  Mutant(
    'after a task what reads the parameters runs first', 'methods/compose.py',
    "key=changing, reverse=field == 'after_task')", 'key=changing)',
    _cells('orders/reptile'),
  ),
  Mutant(
    'a composition keeps the order in which it is named', 'methods/compose.py',
    'dict(sorted(parts.items())), changes or {}', 'dict(parts.items()), changes or {}',
    _cells('orders/l2'),
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
