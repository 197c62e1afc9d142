"""The share of generated answers that are no label of the stream."""

from types import SimpleNamespace

import numpy as np
from support import runs

from jcl.training import evaluate
from jcl.training.experiment import assemble


def test_an_answer_is_right_or_another_label_or_invalid():
  parts = assemble(runs.config('seq'))
  text, task = parts.text, parts.stream.tasks[0]
  examples = task.test[:4]
  other = next(c for c in parts.stream.classes if c != examples[1].answer)
  said = [text.target_ids(examples[0].answer), text.target_ids(other)]
  said += [[*text.target_ids(other)[:-1], *text.target_ids(other)], [text.eos]]  # twice; nothing
  width = max(map(len, said))
  ids_RN = np.array([[*ids, *[text.eos] * (width - len(ids))] for ids in said])
  tools = SimpleNamespace(
    text=text, stream=parts.stream, heads=None, key=parts.tools.key, sample=lambda *_, **__: ids_RN
  )
  found = evaluate.score({}, task, examples, tools, 'generate', width)
  assert found.right == [True, False, False, False]
  assert found.invalid == 0.5
