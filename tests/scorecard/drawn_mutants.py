"""Broken draws before an epoch, and broken teaching of what was drawn."""

from scorecard.mutant import Mutant
from scorecard.mutant import cells as _cells

DRAWN = (
  Mutant(
    'what was drawn for the first epoch trains all', 'training/task_trainer.py',
    'if epoch == now.epochs:', 'if not now.epochs:',
    _cells('drawn/sdft'),
  ),
  Mutant(
    'an epoch trains on the plan before it', 'training/task_trainer.py',
    'loader.of_epoch(plan)', 'loader',
    _cells('tasks/sdft'),
  ),
  Mutant(
    'every epoch draws with one key', 'methods/sdft.py',
    "tools.key('sdft', task.index, epoch)", "tools.key('sdft', task.index)",
    _cells('drawn/sdft'),
  ),
  Mutant(
    'the teacher answers', 'methods/sdft.py',
    'tools.backbone, drawn(params, task,',
    "tools.backbone, drawn(memory['teacher'].get('average', params), task,",
    _cells('drawn/sdft'),
  ),
  Mutant(
    'the teacher is not shown the answer', 'methods/sdft.py',
    'prompt, answer = shown(tools.text, given, room, template).ids, example.tokens',
    'prompt, answer = tools.text.prompt(given), example.tokens',
    _cells('value/sdft', 'tasks/sdft'),
  ),
  Mutant(
    'the model teaches in place of its average', 'methods/sdft.py',
    "taught_by = memory['teacher'].get('average', memory.get('anchor', params))",
    "taught_by = memory.get('anchor', params)",
    _cells('tasks/sdft'),
  ),
  Mutant(
    'the average goes on from the last task', 'methods/sdft.py',
    "'teacher': memory['teacher'] | average,", "'teacher': memory['teacher'],",
    _cells('tasks/sdft'),
  ),
  Mutant(
    'own answers have a cross-entropy', 'methods/sdft.py',
    "'ce': (ce_M, ~own_M)", "'ce': (ce_M, True)",
    _cells('value/sdft', 'tasks/sdft'),
  ),
  Mutant(
    'the divergence is the other way round', 'step/losses.py',
    'if reverse else (teacher_MV, log_MV)', 'if not reverse else (teacher_MV, log_MV)',
    _cells('value/sdft', 'self_taught/(shared)'),
  ),
  Mutant(
    'the other logits count for nothing', 'step/losses.py',
    'return jnp.concatenate([kept_MK, others_M1], 1)', 'return kept_MK',
    _cells('self_taught/(shared)'),
  ),
  Mutant(
    'the base is the model before the task', 'methods/sdft.py',
    "if s.anchor == 'last' else {}", "if s.anchor in ('last', 'base') else {}",
    _cells('self_taught/(shared)'),
  ),
)  # fmt: skip
