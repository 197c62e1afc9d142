"""The column of replay with the model's own answers: which rows replay, id for id."""

import dataclasses
from typing import Any

import numpy as np
from oracles import objectives, texts
from support import tiny

from jcl import methods
from jcl.training.hook_tools import HookTools
from scorecard.wrong import above, equal

ENDLESS, WRONG = 3, 2  # of the place of an example: its answer does not end, or is that of another


def written(place: int, answer: str, ids: dict[str, int]) -> list[int]:
  """The ids that stand for the model's answer to the example at a place of the buffer."""
  if place % 4 == ENDLESS:
    return [ids[answer.split()[0]]] * 2
  said = answer if place % 4 != WRONG else next(c for c in tiny.CLASSES if c != answer)
  return [*(ids[word] for word in said.split()), ids['<eos>']]


@dataclasses.dataclass(frozen=True)
class AnsweringTools(HookTools):
  """Tools whose samples are `written`; a prompt that is not that of a row is a KeyError."""

  def sample(self, params, prompts, key, first, k, temperature, max_new, name):
    """Returns the ids of what is written."""
    ids, rows = self.text.tokenizer.get_vocab(), {}
    for task in self.stream.tasks:
      for example in task.train:
        (row,) = texts.rows(example, True, 'plain', ids)
        rows[tuple(row.tokens[: row.targets[0] + 1])] = example.answer
    out = np.full((len(prompts), max_new), self.text.pad, np.int32)
    for place, prompt in enumerate(prompts):
      said = written(place, rows[tuple(prompt)], ids)[:max_new]
      out[place, : len(said)] = said
    return out


def life(**given: Any) -> tuple[list, list, HookTools]:
  """Two tasks of replay -> what is held and what replays in the second, and the tools."""
  tools = tiny.tools('plain', examples=8)
  same = {f.name: getattr(tools, f.name) for f in dataclasses.fields(HookTools)}
  tools = AnsweringTools(**same)
  method = methods.make(tools.backbone, methods.settings_class('replay')(answers='own', **given))
  params = tiny.params(tools.backbone)
  memory = method.init(params, tools.stream, tools)
  first, second = tools.stream.tasks[:2]
  memory, _ = method.before_task(memory, params, first, tools)
  equal('old rows of the first task', len(method.plan(memory, first).old), 0)
  memory, _ = method.after_task(memory, params, first, tools)
  memory, _ = method.before_task(memory, params, second, tools.at(1))
  held = [tools.example(one) for one in memory['buffer']['examples']]
  return held, list(method.plan(memory, second).old), tools


def nats(tools: HookTools, row: texts.Row) -> float:
  """The mean −log p of the targets of a row, by the oracle."""
  wide = {k: {'kernel': np.asarray(x['kernel'], np.float64)} for k, x in
          tiny.params(tools.backbone).items()}  # fmt: skip
  outputs = tools.backbone.outputs
  return objectives.ce(objectives.Given({}, 1, wide, [row], [], [], [], outputs, 4))


def replayed() -> None:
  """Prompt and own answer where it is kept, else the stored row or none; targets: the answer."""
  held, _, tools = life()
  ids = tools.text.tokenizer.get_vocab()
  rows = []  # as an oracle has them: of the own answers, and of the stored ones
  for place, example in enumerate(held):
    (stored,) = texts.rows(example, True, 'plain', ids)
    said, start = written(place, example.answer, ids), stored.targets[0]
    own = stored._replace(
      tokens=[*stored.tokens[: start + 1], *said], wanted=said,
      targets=[start + i for i in range(len(said))],
    )  # fmt: skip
    rows.append((own, stored))
  ends = [place % 4 != ENDLESS for place in range(len(held))]
  right = [yes and place % 4 != WRONG for place, yes in enumerate(ends)]
  means = [-nats(tools, own) for own, _ in rows]
  least = float(np.median([m for m, yes in zip(means, ends, strict=True) if yes])) - 1e-3
  sure = [yes and mean >= least for mean, yes in zip(means, ends, strict=True)]
  above('answers of which it is sure', sum(sure), 0)
  above('others', sum(ends) - sum(sure), 0)
  keeps = {'right': right, 'all': ends, 'confident': sure}
  for keep, rejected in (('right', 'stored'), ('right', 'drop'), ('all', 'stored'),
                         ('confident', 'drop')):  # fmt: skip
    more = {'least_log_probability': least} if keep == 'confident' else {}
    _, old, tools = life(keep=keep, rejected=rejected, **more)
    wanted = [own for (own, _), yes in zip(rows, keeps[keep], strict=True) if yes]
    if rejected == 'stored':
      wanted += [stored for (_, stored), yes in zip(rows, keeps[keep], strict=True) if not yes]
    found = [tools.text.rows(tools.example(one), True)[0] for one in old]
    form = lambda row: (list(row.tokens), list(row.targets), list(row.wanted), row.task, row.replay)
    equal(f'rows that replay, {keep}, else {rejected}', list(map(form, found)),
          list(map(form, wanted)))  # fmt: skip
    count = {'before': 't1', 'asked': len(held), 'right': sum(right), 'kept': sum(keeps[keep])}
    equal('what is reported', tools.reports['own_answers'], [count])
