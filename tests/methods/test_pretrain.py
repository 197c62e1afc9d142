"""Continual pretraining: what it minimises, what it is scored by, and whole runs on raw text."""

import json
import math

import jax
import pytest
from oracles import pretraining
from support import rounding, runs, tiny
from support.raw_text import config, plain, rows_of, text_tools

from jcl import methods
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.step import losses, train_step, trainable
from jcl.storage.encoding import decode, encode
from jcl.training import evaluate, experiment
from jcl.training.folds import Journal

# Objective and scores.


def test_the_objective_is_the_mean_over_all_tokens_new_and_old(tmp_path):
  tools = text_tools(tmp_path)
  backbone, params = tools.backbone, tiny.params(tools.backbone)
  method = methods.make(backbone, methods.settings('pretrain'))
  memory = method.init(params, tools.stream, tools)
  first, second = tools.stream.tasks[:2]
  memory, _ = method.after_task(memory, params, first, tools)
  found = method.plan(memory, second)
  rows = rows_of(tools, second.train)
  rows += [tools.text.rows(tools.example(e), True)[0] for e in list(found.old)[:3]]
  assert sum(r.replay for r in rows) == 3
  targets = sum(len(r.targets) for r in rows)
  batch = layout(rows, 1, Shape(len(rows), 8, targets + 5), tiny.keys(len(rows)))
  trained, frozen, _ = trainable.split(params, (('.*', True),))
  loss_fn = method.loss_fn or losses.plain(backbone)
  gradient = train_step.make_gradient(method, loss_fn, tools.mesh)
  (loss, values), _ = jax.jit(gradient)(trained, frozen, memory['teacher'], found.weights, batch)
  wanted = pretraining.pretrain(plain(params), rows, backbone.outputs)
  assert float(loss) == tiny.nearly(wanted)
  assert set(values) == {'ce'}


@pytest.mark.parametrize('bos', [False, True])
@pytest.mark.parametrize('batch_size', [1, 3, 64])
def test_log_perplexity_is_the_mean_over_tokens_whatever_the_chunk(batch_size, bos, tmp_path):
  tools = text_tools(tmp_path, batch_size=batch_size, bos=bos)
  params = tiny.params(tools.backbone)
  for task in tools.stream.tasks[:2]:
    found = evaluate.score(params, task, task.test, tools, 'generate', 0)
    rows = rows_of(tools, task.test)
    wanted = pretraining.pretrain(plain(params), rows, tools.backbone.outputs)
    assert found.value == tiny.nearly(wanted)
    assert found.targets == sum(len(r.targets) for r in rows) == task.test.targets
    assert found.merit == -found.value


def test_a_score_goes_on_from_the_chunk_it_was_killed_in(tmp_path):
  tools = text_tools(tmp_path, batch_size=1)
  params, task = tiny.params(tools.backbone), tools.stream.tasks[0]
  score = lambda: evaluate.score(params, task, task.train, tools, 'generate', 0)
  whole, done = score(), []

  def dying(name, number, chunks):
    done.append((number, chunks))
    if number == 2:
      raise runs.Killed

  tools.folds.journal, tools.folds.on_chunk = Journal(), dying
  with pytest.raises(runs.Killed):
    score()
  arrays = {}
  kept = json.loads(json.dumps(encode([list(e) for e in tools.folds.journal.entries], arrays)))
  tools.folds.journal = Journal(decode(kept, arrays))
  tools.folds.on_chunk = lambda name, number, chunks: done.append((number, chunks))
  assert score() == whole
  assert [number for number, _ in done] == list(range(1, len(task.train) + 1))


def test_drift_is_the_divergence_from_the_base_and_nothing_for_the_base_itself(tmp_path):
  tools = text_tools(tmp_path)
  params, other = (tiny.params(tools.backbone, seed) for seed in (0, 1))
  method = methods.make(tools.backbone, methods.settings('pretrain'))
  memory = method.init(params, tools.stream, tools)
  for now in (params, other):
    method.after_task(memory, now, tools.stream.tasks[0], tools)
    tools.folds.journal = Journal()
  still, moved = tools.reports['drift']
  rows = rows_of(tools, tools.stream.tasks[0].test)
  at = plain(params), plain(other)
  assert still['kl'] == pytest.approx(0, abs=rounding.tolerance(1))
  assert moved['kl'] == tiny.nearly(pretraining.drift(*at, rows, tools.backbone.outputs))
  assert abs(moved['kl'] - pretraining.drift(*at[::-1], rows, tools.backbone.outputs)) > 1e-2
  for line, own in zip((still, moved), at, strict=True):
    nats = pretraining.pretrain(own, rows, tools.backbone.outputs)
    assert line['perplexity'] == tiny.nearly(math.exp(nats))
  assert [line['task'] for line in (still, moved)] == ['t0', 't0']


def test_drift_holds_no_logits_of_all_tokens(tmp_path, monkeypatch):
  """In chunks of a few targets it says the same."""
  tools = text_tools(tmp_path)
  params, other = (tiny.params(tools.backbone, seed) for seed in (0, 1))
  for held in (losses.held_logits(), 5 * tools.backbone.outputs):
    monkeypatch.setattr(losses, 'held_logits', lambda held=held: held)
    method = methods.make(tools.backbone, methods.settings('pretrain'))
    memory = method.init(params, tools.stream, tools)
    method.after_task(memory, other, tools.stream.tasks[0], tools)
    tools.folds.journal = Journal()
  one, two = tools.reports['drift']
  assert one['kl'] == tiny.nearly(two['kl'])


def test_the_memory_of_old_corpora_is_a_few_numbers_and_is_not_changed_in_place(tmp_path):
  tools = text_tools(tmp_path)
  params = tiny.params(tools.backbone)
  settings = methods.settings_class('pretrain')(drift=False, replay_share=0.25)
  method = methods.make(tools.backbone, settings)
  memory = method.init(params, tools.stream, tools)
  assert set(memory) == {'teacher', 'past'}
  for task in tools.stream.tasks:
    found, before = method.plan(memory, task), [list(s) for s in memory['past']]
    earlier = tools.stream.tasks[: task.index]
    assert list(found.old) == [e.reference for t in earlier for e in t.train]
    assert (found.level, found.unit) == ('even', 'tokens')
    assert found.ratio == pytest.approx(1 / 3)
    after, same = method.after_task(memory, params, task, tools)
    assert memory['past'] == before
    assert same is params
    memory = after
  assert 'drift' not in tools.reports


# What is refused.

REFUSED = {
  'pretrain without raw text': (lambda: config(scenario='cil'), "'cil', in which pretrain has no"),
  'derpp': (lambda: config('derpp'), "scenario is 'cpt', in which derpp has no meaning"),
  'lamol': (lambda: config('lamol'), "scenario is 'cpt', in which lamol has no meaning"),
  'lamol_kd': (lambda: config('lamol_kd'), "scenario is 'cpt', in which lamol_kd has no meaning"),
  'a head': (lambda: config('seq', backbone={'head': 'linear'}), r"backbone\.head is 'linear'"),
  'a template': (lambda: config(stream={'template': '{x}{y}'}), r'stream\.template is'),
  'labels': (lambda: config(evaluate={'answer': 'score'}), r"evaluate\.answer is 'score'"),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_what_has_no_meaning_is_refused_before_anything_is_read(case, monkeypatch):
  made, message = REFUSED[case]
  monkeypatch.setattr(experiment.streams, 'load', None)
  with pytest.raises(UserError, match=message):
    experiment.assemble(made())


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('replay_share', -0.1), ('replay_share', 1.0), ('replay_share', math.nan),
    ('probe_path', 'no/such/file.txt'),
  ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_field(field, value):
  made = config()
  setattr(made.method, field, value)
  with pytest.raises(UserError, match=rf'method\.{field} is '):
    experiment.assemble(made)


def test_a_probe_that_nothing_would_read_is_refused():
  made = config()
  made.method.drift, made.method.probe_path = False, __file__
  with pytest.raises(UserError, match=r'method\.probe_path is .* without method\.drift'):
    experiment.assemble(made)
