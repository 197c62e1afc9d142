"""Results and logs of runs that were never trained, with every part that a page shows."""

import html.parser
from typing import Any

TASKS = ('bank', 'travel', 'music')
VOID = ('meta', 'link', 'br', 'input')
MATRIX = [[0.0, 0.1, 0.0], [0.9, 0.1, None], [0.6, 0.8, 0.2], [0.3, 0.4, 1.0]]


def run(method: str = 'lamol', seed: int = 0, matrix: Any = None, **more: Any) -> dict:
  """Results of a finished run with all its parts."""
  pseudo = {
    'before': 'travel', 'task': 'bank', 'asked': 10, 'drawn': 16, 'kept': 10, 'distinct': 6,
    'verbatim': 1, 'valid_label': 8, 'samples': [['my <b>balance</b> & more', 'balance']],
    'rejected': [['what is __ans__ __ans__', 'not well formed']],
  }  # fmt: skip
  flip = {
    'task': 'bank', 'split': 'test', 'number': 7, 'id': 'mail-9', 'place': 'mails.csv:12',
    'text': 'where is my card', 'answer': 'card lost', 'answered': 'book flight',
  }  # fmt: skip
  return {
    'jcl': '0.1.0', 'method': method, 'stream': 'synthetic', 'scenario': 'cil', 'seed': seed,
    'tasks': list(TASKS), 'score': 'accuracy', 'matrix': matrix or MATRIX, 'finished': True,
    'sizes': [10, 10, 20], 'pseudo': [pseudo, {**pseudo, 'task': None, 'samples': []}],
    'invalid': [[None] * 3, [0.5, None, None], [0.0, 0.0, None], [0.0, 0.1, 0.2]],
    'task_metrics': ['exact_match'] * 3,
    'answer_scores': {'exact_match': MATRIX, 'macro_f1': MATRIX},
    'seconds': {'train': 12.34, 'generate': 1.5, 'evaluate': 2.0, 'compile': 3.0},
    'tokens': {'train': 12345, 'generate': 99}, 'cost': {'models': 1, 'memory_bytes': 2_500_000},
    'negative_flips': {'count': 1, 'of': 40, 'examples': [flip]},
    'by_class': [
      {'task': 'bank', 'class': 'card lost', 'examples': 5, 'right': 1,
       'wrong': [['book flight', 3], [None, 1]]},
      {'task': 'music', 'class': 'play song', 'examples': 10, 'right': 10, 'wrong': []},
    ],
    'weights': [{'task': task, 'terms': {'qa': 1.0, 'gen': 0.25, 'ewc': 100.0}} for task in TASKS],
    'mix': [{'task': task, 'new': 3000, 'old': 1000 * (i > 0)} for i, task in enumerate(TASKS)],
    'buffer': [{'after': 'bank', 'examples': 6, 'seen': 30, 'tasks': {'bank': 6},
                'classes': {'card lost': 4, 'card found': 2}}],
    'own_answers': [{'before': 'travel', 'asked': 6, 'right': 5, 'kept': 4}],
    'drift': [{'task': 'bank', 'kl': 0.25, 'perplexity': 12.5}],
    'probe': [{'task': None, 'nats': 3.5, 'kl': 0.0, 'kl_prompts': None, 'kl_next_prompts': 0.1}],
    'machine': {'jax': '0.10.0', 'devices': [1, 8], 'cores': 2},
    'warnings': ['rows lose the end of their input: train 11.8 %'], 'cut_rows': 3,
    'overlap': {'bank': 2}, 'resumes': [{'phase': 'train', 'task': 2, 'step': 3}],
    'refused_steps': [{'task': 'music', 'count': 7}], 'params_sha256': 'ab12',
    'config': {'method': {'gamma': 0.2}, 'train': {'seed': seed, 'epochs': 5, 'clip_norm': 1.0},
               'stream': {'name': 'synthetic', 'order_seed': seed}},
    **more,
  }  # fmt: skip


def log(steps: int = 12) -> list[dict]:
  """Lines of a metrics.jsonl that goes with `run`: steps and dev scores of three tasks."""
  lines: list[dict] = []
  for task in range(3):
    for step in range(1, steps + 1):
      terms = {'qa': 2.0 / step, 'gen': 4.0 / step, 'ewc': 0.01 * task}
      loss = terms['qa'] + 0.25 * terms['gen'] + 100 * terms['ewc']
      lines.append(
        {'task': task, 'step': step, 'rate': 1e-3, 'loss': loss, 'gradient_norm': 5.0, **terms}
      )
      if step % 4 == 0 and task:
        norms = {'qa': 2.0 / step, 'gen': 1.0 / step, 'ewc': 0.1}
        lines.append({'task': task, 'step': step, 'gradient_norms': norms})
      if step % 4 == 0:
        dev = dict.fromkeys(TASKS[: task + 1], 0.5 + 0.04 * step)
        lines.append({'task': task, 'step': step, 'dev': dev})
  return lines


def text_run(**more: Any) -> dict:
  """Results of a run on raw text, in nats per token."""
  return run(
    'pretrain', matrix=[[3.0, 3.5, 4.0], [1.25, 3.5, None], [1.5, 1.0, 3.9], [1.6, 1.1, 0.9]],
    score='log_perplexity', scenario='cpt', invalid=None, negative_flips=None, by_class=[],
    task_metrics=None, answer_scores={}, pseudo=[], **more,
  )  # fmt: skip


class Parts(html.parser.HTMLParser):
  """The elements of a page; refuses one that is not closed, or closed twice.

  Attributes:
    elements: (name, attributes, all text within) in the order in which they end.
  """

  def __init__(self, page: str):
    super().__init__()
    self.elements: list[tuple[str, dict[str, str | None], str]] = []
    self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
    self.feed(page)
    self.close()
    assert not self._open, self._open

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    if tag not in VOID:
      self._open.append((tag, dict(attrs), []))
    else:
      self.elements.append((tag, dict(attrs), ''))

  def handle_endtag(self, tag: str) -> None:
    name, attributes, words = self._open.pop()
    assert name == tag, f'<{name}> is closed by </{tag}>'
    self.elements.append((name, attributes, ''.join(words)))

  def handle_data(self, data: str) -> None:
    for _, _, words in self._open:
      words.append(data)

  def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str | None], str]]:
    """(attributes, text) of the elements of a name with some attributes."""
    return [
      (attributes, words) for name, attributes, words in self.elements
      if name == tag and wanted.items() <= attributes.items()
    ]  # fmt: skip

  def table(self, caption: str) -> list[list[str]]:
    """The cells of the rows of the table with a caption, its header first."""
    rows: list[list[str]] = []
    cells: list[str] = []
    found = False
    for name, _, words in self.elements:
      if name == 'caption':
        found, rows = words.startswith(caption), []
      elif name in ('th', 'td') and found:
        cells.append(words)
      elif name == 'tr' and found:
        rows.append(cells)
        cells = []
      elif name == 'table' and found:
        return rows
    raise AssertionError(f'there is no table {caption!r}')
