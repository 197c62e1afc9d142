"""The column of old rows from a corpus: which rows an epoch has, and the loss of its steps."""

import jax
import numpy as np
from oracles import objectives, texts
from support import tiny

from jcl import methods
from jcl.batching import batch_shapes, corpus, epochs
from jcl.batching.batch import layout
from jcl.step import losses, sharding, train_step, trainable
from scorecard.wrong import equal, near

EPOCHS, LENGTH, RATIOS = 5, 9, (0.7, 1.3)


def mixed() -> None:
  """Each epoch has the share of its task, in the unit asked for, and the loss is the oracle's."""
  tools = tiny.tools('plain', examples=7)
  ids = tools.text.tokenizer.get_vocab()
  said = [ids[word] for word in sorted(ids) if word.isalpha()] * 2
  general = corpus.Corpus(said, tools.text.start, LENGTH, 'corpus')
  rows_of = lambda example, replay: tools.text.rows(tools.example(example), replay)
  for unit, task in ((u, t) for u in ('tokens', 'targets') for t in tools.stream.tasks[:2]):
    settings = methods.settings_class('replay')(
      unit=unit, mix_by_task=RATIOS, corpus='given', corpus_share=1.0
    )
    method = methods.make(tools.backbone, settings)
    params = tiny.params(tools.backbone)
    plan = method.plan(method.init(params, tools.stream, tools), task)
    plan = plan._replace(new=list(task.train))
    size = lambda rows, unit=unit: sum(len(getattr(row, unit)) for row in rows)
    before, count, what = [], 0, f'{unit}, task {task.index + 1}'
    for epoch in range(EPOCHS):
      steps = list(epochs.steps(plan, rows_of, 0, task.index, epoch, 8, general))
      rows = [row for step in steps for row in step.rows]
      old = [row for row in rows if row.replay]
      wanted = RATIOS[task.index] * size(row for row in rows if not row.replay)
      share = round((epoch + 1) * wanted) - round(epoch * wanted)
      equal(f'{what}: old {unit} of epoch {epoch + 1}', size(old), share)
      count += share
      before += [token for row in old for token in row.wanted.tolist()]
      if not epoch:
        _loss(what, tools, params, rows, said)
    # Each token stands in the text twice, and a turn has each place once; a target fewer a block.
    turn = len(said) - (unit == 'targets') * -(-len(said) // LENGTH)
    most = max(before.count(token) for token in set(before))
    equal(f'{what}: a token comes more than twice a turn', most > 2 * -(-count // turn), False)


def _loss(what, tools, params, rows, said) -> None:
  """The mean over all targets is the oracle's, which reads general rows off the text."""
  found = []
  for row in rows:
    tokens = row.tokens.tolist()
    if row.replay:
      place = next(i for i in range(len(said)) if said[i : i + len(tokens)] == tokens)
      tokens = said[place : place + len(tokens)]
      targets, wanted = list(range(len(tokens) - 1)), tokens[1:]
    else:
      example = next(e for t in tools.stream.tasks for e in t.train if 2 * e.number == row.number)
      (one,) = texts.rows(example, False, 'plain', tools.text.tokenizer.get_vocab())
      tokens, targets, wanted = one.tokens, one.targets, one.wanted
    found.append(texts.Row(tokens, targets, wanted, row.replay, False, row.task))
  wide = {k: {'kernel': np.asarray(x['kernel'], np.float64)} for k, x in params.items()}
  given = objectives.Given({}, 1, wide, found, [], [], [], tools.backbone.outputs, 4)
  shape = batch_shapes.rungs([rows], 1, len(rows))[0]
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  fn = train_step.make_gradient(
    methods.Method(), losses.plain(tools.backbone), sharding.make_mesh(1)
  )
  batch = layout(rows, 1, shape, tiny.keys(len(rows)))
  (loss, _), _ = jax.jit(fn)(trained, frozen, {}, {}, batch)
  near(f'{what}: loss', float(loss), objectives.ce(given), 1e-5)
