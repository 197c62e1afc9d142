"""What a small run tells its callbacks, without a run."""

TASKS = ['bank', 'travel']


def events(workdir, resumed: bool = False) -> list[tuple]:
  """All that a run of two tasks of two steps tells, as (method, argument)."""
  start = {
    'method': 'seq', 'stream': 'synthetic', 'scenario': 'cil', 'seed': 0, 'tasks': TASKS,
    'score': 'accuracy', 'config': {'train': {'epochs': 2, 'trainable': ('a', 'b')}},
    'workdir': workdir, 'resumed': resumed, 'run_step': 0, 'tasks_done': 0,
  }  # fmt: skip
  matrix = [[0.0, 0.1], [None, None], [None, None]]
  found = [('on_start', start), ('on_evaluation', row(None, 0, 0, [0.0, 0.1]))]
  for task in range(2):
    for step in (1, 2):
      line = {'task': task, 'step': step, 'run_step': 2 * task + step}
      found.append(('on_step', {**line, 'rate': 0.1, 'loss': 1.5, 'ce': 1.25, 'gradient_norm': 2}))
      found.append(('on_step', {**line, 'seconds_per_step': 0.5, 'tokens_per_second': 9.0,
                                'mfu': None, 'peak': 'unknown'}))  # fmt: skip
    if task:
      norms = {'ce': 0.5, 'ewc': 0.25}
      found.append(('on_step', {'task': 1, 'step': 2, 'run_step': 4, 'gradient_norms': norms}))
    dev = {'task': TASKS[task], 'step': 2, 'split': 'dev', 'scores': {'bank': 0.5}}
    found.append(('on_evaluation', {**dev, 'run_step': 2 * task + 2, 'tasks_done': task}))
    matrix[task + 1] = [0.9, 0.1] if task == 0 else [0.3, 0.8]
    found.append(('on_evaluation', row(TASKS[task], 2 * task + 2, task + 1, matrix[task + 1])))
    found.append(('on_task', results([*map(list, matrix)])))
  return [*found, ('on_end', True)]


def row(task, step: int, done: int, scores: list[float]) -> dict:
  return {
    'task': task, 'step': None, 'split': 'test', 'run_step': step, 'tasks_done': done,
    'scores': dict(zip(TASKS, scores, strict=True)),
  }  # fmt: skip


def results(matrix) -> dict:
  return {
    'method': 'seq', 'stream': 'synthetic', 'seed': 0, 'tasks': TASKS, 'score': 'accuracy',
    'matrix': matrix, 'finished': False, 'metrics': {'forgetting': 0.6, 'forward_transfer': None},
    'seconds': {'train': 2.0}, 'tokens': {'train': 18}, 'warnings': ['a'],
    'pseudo': [{'before': 'a', 'task': 'z', 'kept': 9}, {'before': 'b', 'task': 'x', 'kept': 2},
               {'before': 'b', 'task': 'y', 'kept': 3}],
  }  # fmt: skip


def tell(one, some) -> None:
  for event, value in some:
    getattr(one, event)(value)
