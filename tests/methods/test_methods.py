"""Methods and what they remember: pseudo samples, plans, neutral settings."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rounding, slow, tiny
from support.scripted import good, scripted

from jcl import methods
from jcl.batching.batch import Shape, layout
from jcl.errors import UserError
from jcl.memory import pseudo
from jcl.methods import Method
from jcl.step import losses, sharding, train_step, trainable
from jcl.step.groups import Groups

# Pseudo samples.


def drawn(say, task=2, examples=7, longest=25, **settings):
  """-> the samples of `task`, the lines of the report, the calls."""
  settings = methods.settings_class('lamol')(**{'gamma': 1.0, **settings})
  tools = tiny.tools(settings.text_format, examples=examples)
  tools = scripted(tools, say)
  samples = pseudo.draw({}, tools.stream.tasks[task], tools, longest, settings)
  return samples, tools.reports.get('pseudo', []), tools.calls, tools


def test_what_is_asked_is_shared_and_the_remainder_goes_to_the_first():
  samples, lines, calls, tools = drawn(good, task_tokens=True)
  assert [(x['task'], x['asked'], x['drawn'], x['kept']) for x in lines] == [
    ('t0', 4, 4, 4), ('t1', 3, 3, 3)
  ]  # fmt: skip
  assert [s['task'] for s in samples] == [0] * 4 + [1] * 3
  assert [c[:4] for c in calls] == [(0, 0, 4, 25), (1, 0, 3, 25)]
  ids = [tools.text.tokenizer.token_to_id(f'__{i}__') for i in range(2)]
  assert [c[6] for c in calls] == [[ids[0]], [ids[1]]]
  for old, call in enumerate(calls):
    assert call[4:6] == (20, 1.0)
    assert jnp.array_equal(
      jax.random.key_data(call[7]), jax.random.key_data(tools.key('pseudo', 2, old))
    )
  assert [len(drawn(good, gamma=g, task_tokens=True)[0]) for g in (0.0, 0.2, 0.5, 2.0)] == [
    0,
    1,
    3,
    14,
  ]


def test_the_first_task_draws_nothing():
  assert drawn(good, task=0)[:3] == ([], [], [])


def test_samples_keep_their_ids_up_to_the_end():
  samples, _, _, tools = drawn(good, task_tokens=True)
  for sample in samples:
    assert sample['tokens'][-1] == tools.text.eos
    assert tools.text.parse(sample['tokens']) is not None
  examples = pseudo.examples(samples)
  assert [e.tokens for e in examples] == [tuple(s['tokens']) for s in samples]
  assert [e.number for e in examples] == list(range(2**29, 2**29 + 7))
  assert all(e.label == -1 for e in examples)


def test_malformed_samples_are_drawn_again_and_a_rest_of_a_chunk_does_not_count():
  """Of task 0 the draws 0, 1, 2 and 5 are no samples: 4 are kept of 8; task 1 is fine."""
  say = lambda old, draw: 'lamp <eos>' if old == 0 and draw in (0, 1, 2, 5) else good(old, draw)
  samples, lines, calls, tools = drawn(say, task_tokens=True)
  assert [(x['asked'], x['drawn'], x['kept']) for x in lines] == [(4, 8, 4), (3, 3, 3)]
  assert [c[:3] for c in calls] == [(0, 0, 4), (0, 4, 8), (1, 0, 3)]
  words = [tools.text.parse(s['tokens']) for s in samples[:4]]
  assert words == [tools.text.parse(ids_of(tools, good(0, d))) for d in (3, 4, 6, 7)]


def ids_of(tools, words):
  return [tools.text.tokenizer.token_to_id(w) for w in words.split()]


@pytest.mark.parametrize(
  ('attempts', 'retry', 'limit'), [(3, True, 12), (2, True, 8), (3, False, 4)]
)
def test_no_more_is_drawn_than_allowed(attempts, retry, limit):
  bad = lambda old, draw: 'the lamp <eos>'
  samples, lines, calls, _ = drawn(bad, task_tokens=True, retry=retry, max_attempts=attempts)
  assert samples == []
  assert (lines[0]['asked'], lines[0]['drawn'], lines[0]['kept']) == (4, limit, 0)
  assert sum(c[2] for c in calls if c[0] == 0) == limit


@pytest.mark.parametrize(
  ('broken', 'words'),
  [
    (range(20), '0 of 21 drawn samples well formed, so nothing is replayed'),
    (range(1, 20), '2 of 21 drawn samples well formed, so 2 of 7 rows replayed'),
  ],
)
def test_too_few_samples_are_said_with_their_rate(broken, words):
  """Per old task 12 and 9 draws at most; the first of each is fine in the second case."""
  say = lambda old, draw: 'lamp <eos>' if draw in broken else good(old, draw)
  *_, tools = drawn(say, task_tokens=True)
  assert [w for w in tools.reports['warnings'] if words in w] == tools.reports['warnings']
  *_, tools = drawn(good, task_tokens=True)
  assert 'warnings' not in tools.reports


def test_most_of_the_samples_are_no_reason_to_warn():
  say = lambda old, draw: 'lamp <eos>' if draw % 2 else good(old, draw)
  *_, tools = drawn(say, task_tokens=True, retry=False)  # 4 of 7
  assert 'warnings' not in tools.reports


def test_without_retry_fewer_are_kept():
  say = lambda old, draw: 'lamp <eos>' if draw % 2 else good(old, draw)
  samples, lines, _, _ = drawn(say, task_tokens=True, retry=False)
  assert [(x['drawn'], x['kept']) for x in lines] == [(4, 2), (3, 2)]
  assert len(samples) == 4


def test_the_same_sample_twice_counts_unless_it_may_not():
  same = lambda old, draw: good(old, 0)
  _, lines, _, _ = drawn(same, task_tokens=True)
  assert [(x['kept'], x['distinct']) for x in lines] == [(4, 1), (3, 1)]
  _, lines, _, _ = drawn(same, task_tokens=True, deduplicate=True)
  assert [(x['drawn'], x['kept'], x['distinct']) for x in lines] == [(12, 1, 1), (9, 1, 1)]


def test_unknown_labels_are_counted_and_on_request_left_out():
  """`block` is a label of the task to come; no label is two words out of order."""
  answers = ['switch on', 'block', 'on switch', 'open']
  say = lambda old, draw: f'the lamp train __ans__ {answers[draw % 4]} <eos>'
  _, lines, _, _ = drawn(say, task_tokens=True)
  assert [(x['kept'], x['valid_label']) for x in lines] == [(4, 2), (3, 0)]  # of its own task
  _, lines, _, _ = drawn(say, task_tokens=True, require_known_label=True)
  assert [(x['drawn'], x['kept'], x['valid_label']) for x in lines] == [(8, 4, 4), (9, 0, 0)]
  assert lines[1]['rejected'][0][1] == 'no label of its task'  # but one of another old task
  _, (line,), _, _ = drawn(say, require_known_label=True)
  assert (line['kept'], line['valid_label']) == (7, 7)  # a shared token tells no task


def test_copies_of_training_inputs_are_counted():
  """The third training input of task 0 stands as it is; an input of the test split is no copy."""
  tools = tiny.tools(examples=7)
  train, test = tools.stream.tasks[0].train[2], tools.stream.tasks[0].test[0]
  assert test.text not in [e.text for e in tools.stream.tasks[0].train]
  inputs = [train.text, train.text.replace('train', 'lamp'), train.text, 'the train']
  say = lambda old, draw: f'{inputs[draw]} __ans__ switch on <eos>' if not old else good(1, draw)
  _, lines, _, _ = drawn(say, task_tokens=True)
  assert [(x['kept'], x['distinct'], x['verbatim']) for x in lines] == [(4, 3, 2), (3, 3, 0)]


def test_of_a_shared_token_nobody_knows_the_task():
  samples, lines, calls, tools = drawn(good)
  assert [s['task'] for s in samples] == [-1] * 7
  assert [r.task for e in pseudo.examples(samples) for r in tools.text.rows(e, True)] == [-1] * 14
  (line,) = lines
  assert (line['task'], line['asked'], line['drawn'], line['kept']) == (None, 7, 7, 7)
  assert line['by_task'] == {'t0': 4, 't1': 3}
  shared = tools.text.tokenizer.token_to_id('__gen__')
  assert [c[6] for c in calls] == [[shared]] * 2
  assert not jnp.array_equal(*(jax.random.key_data(c[7]) for c in calls))


def test_lamol_trains_pseudo_samples_with_the_new_examples():
  """As long as the longest generation row that was trained so far, and no longer."""
  method = methods.make(tiny.recurrent(9), methods.settings_class('lamol')(gamma=1.0))
  tools = tiny.tools('lamol', examples=7)
  tools = scripted(tools, good)
  memory = method.init({}, tools.stream, tools)
  longest = 0
  for task in tools.stream.tasks:
    given = copy.deepcopy(memory)
    before, params = memory, {'w': 1}
    memory, same = method.before_task(before, params, task, tools)
    assert before == given  # nothing is changed in place
    assert same is params
    assert all(call[3] == longest for call in tools.calls)
    longest = max([longest, *(len(tools.text.rows(e)[1].targets) for e in task.train)])
    assert memory['longest'] == longest
    tools.calls.clear()
    plan = method.plan(memory, task)
    assert tuple(plan.new) == task.train
    assert len(plan.old) == (7 if task.index else 0)
    assert plan.weights == {'gen': 0.25}
  memory, _ = method.before_task(memory | {'longest': 40}, {}, task, tools)
  assert memory['longest'] == 40  # a task of shorter rows does not lower it


# Plans and parameters of the others.


def through(name, **settings):
  """Plans and trained-from parameters of a method over three tasks; training adds 1."""
  chosen = methods.settings_class(name)(**settings)
  tools = tiny.tools(chosen.text_format)
  method = methods.make(tools.backbone, chosen)
  params = {'w': np.float32(0)}
  memory, plans, starts = method.init(params, tools.stream, tools), [], []
  for task in tools.stream.tasks:
    memory, params = method.before_task(memory, params, task, tools)
    plans.append(method.plan(memory, task))
    starts.append(float(params['w']))
    params = {'w': params['w'] + 1}
    memory, params = method.after_task(memory, params, task, tools)
  return tools, method, memory, params, plans, starts


def numbers(items):
  return [x[1] if isinstance(x, tuple) else x.number for x in items]


def test_seq_trains_each_task_on_its_own_examples_and_goes_on():
  tools, _, _, _, plans, starts = through('seq')
  for plan, task in zip(plans, tools.stream.tasks, strict=True):
    assert numbers(plan.new) == numbers(task.train)
    assert not plan.old
  assert starts == [0, 1, 2]


def test_joint_trains_once_on_all_tasks_from_the_initial_parameters():
  tools, _, _, _, plans, starts = through('joint')
  assert [len(p.new) for p in plans] == [0, 0, 18]
  assert numbers(plans[2].new) == numbers([e for t in tools.stream.tasks for e in t.train])
  assert starts == [0, 0, 0]


def test_joint_of_every_task_trains_afresh_on_all_so_far():
  _, _, _, _, plans, starts = through('joint', every_task=True)
  assert [len(p.new) for p in plans] == [6, 12, 18]
  assert starts == [0, 0, 0]


def test_single_keeps_a_model_a_task_and_gives_it_where_the_task_is_told():
  tools, method, memory, params, plans, starts = through('single')
  assert starts == [0, 0, 0]
  assert [numbers(p.new) for p in plans] == [numbers(t.train) for t in tools.stream.tasks]
  memory = memory | {'models': {k: {'w': i} for i, k in enumerate(memory['models'])}}
  found = [method.params_for(memory, params, t)['w'] for t in tools.stream.tasks]
  assert found == [0, 1, 2]
  assert method.params_for(memory, params, None) is params
  del memory['models']['t2']  # in the middle of its training
  assert method.params_for(memory, params, tools.stream.tasks[2]) is params
  assert tools.reports['cost'] == [{'models': 3}]


@pytest.mark.parametrize(('size', 'held'), [(100, [0, 6, 12]), (8, [0, 6, 8])])
def test_replay_offers_every_finished_task_to_the_buffer(size, held):
  tools, _, memory, _, plans, _ = through('replay', buffer_size=size, level='batch')
  assert [len(p.old) for p in plans] == held
  assert memory['buffer']['seen'] == 18
  assert {p.level for p in plans} == {'batch'}
  for plan, task in zip(plans, tools.stream.tasks, strict=True):
    assert not set(numbers(plan.old)) & set(numbers(task.train))


@pytest.mark.parametrize(
  'update', [{}, {'update': 'every_epoch'}, {'update': 'every_steps', 'update_steps': 2}]
)
def test_examples_enter_the_buffer_in_the_order_trained(update):
  tools, _, memory, _, plans, _ = through('replay', policy='fifo', buffer_size=8, **update)
  order = [e for p, t in zip(plans, tools.stream.tasks, strict=True) for e in tools.trained(p, t)]
  assert memory['buffer']['examples'] == [e.reference for e in order[-8:]]
  assert [e.number for e in order] != sorted(e.number for e in order)
  assert {p.online_buffer is None for p in plans} == {not update}
  for plan, held in zip(plans, (0, 6, 8), strict=True):
    assert len(plan.old) == held
    if update:
      assert plan.online_buffer.examples == plan.old
      assert (plan.online_buffer.size, plan.online_buffer.policy) == (8, 'fifo')
      assert plan.online_buffer.every == update.get('update_steps', 0)


@pytest.mark.parametrize(
  ('name', 'field', 'value'),
  [
    ('replay', 'buffer_size', 0),
    ('replay', 'replay_ratio', -0.1),
    ('lamol', 'lambda_gen', -1.0),
    ('lamol', 'gamma', -0.2),
    ('lamol', 'top_k', 0),
    ('lamol', 'temperature', 0.0),
    ('lamol', 'max_attempts', 0),
    ('lamol_kd', 'gamma', -0.2),
    ('lamol_kd', 'distill_weight', -1.0),
    ('lamol_kd', 'distill_temperature', 0.0),
    ('lamol_kd', 'teacher_cache_mb', -1),
    ('distill', 'alpha', 1.5),
    ('distill', 'alpha', -0.5),
    ('distill', 'distill_temperature', 0.0),
    ('distill', 'teacher_cache_mb', -1),
    ('derpp', 'alpha', -0.5),
    ('derpp', 'beta', -0.5),
    ('derpp', 'buffer_size', 0),
    ('derpp', 'teacher_cache_mb', -1),
  ],
)
def test_settings_out_of_range_are_refused_by_field(name, field, value):
  settings = methods.settings_class(name)(**{field: value})
  with pytest.raises(UserError, match=rf'method\.{field} is {value}'):
    settings.check()
  methods.settings(name).check()


def test_an_unknown_method_is_refused_with_the_known_ones():
  with pytest.raises(UserError, match=r"method: nothing is called 'nonsense'; there are seq, "):
    methods.settings('nonsense')


@pytest.mark.parametrize('name', list(methods.BUILT_IN))
def test_names_and_settings_belong_together(name):
  chosen = methods.settings(name)
  assert methods.name_of(chosen) == name
  assert isinstance(methods.make(tiny.recurrent(9), chosen), Method)
  assert set(chosen.neutral or {}) <= {f.name for f in dataclasses.fields(chosen)}
  assert set(chosen.scenarios) <= {'cil', 'til', 'iil', 'dil', 'cpt'}


@functools.cache
def gradient_of_plain(backbone):
  """The compiled gradient of plain fine-tuning."""
  gradient = train_step.make_gradient(Method(), losses.plain(backbone), sharding.make_mesh(1))
  return jax.jit(gradient)


NEUTRAL = [m for m in methods.BUILT_IN if methods.settings_class(m).neutral is not None]


@pytest.mark.parametrize(
  'name',
  slow.but([m for m in NEUTRAL if m not in ('olora', 'expand', 'mas')], NEUTRAL),
)
def test_neutral_settings_leave_plain_fine_tuning(name):
  """Of the first and the second task, on a batch without replay and generation.

  One program serves both tasks.
  """
  chosen = methods.settings_class(name)(**methods.settings_class(name).neutral)
  if hasattr(chosen, 'projection'):
    chosen.projection = 8
  tools = scripted(tiny.tools_for(chosen), lambda old, draw: '<eos>')
  method, params = methods.make(tools.backbone, chosen), tiny.params(tools.backbone)
  plain_gradient = gradient_of_plain(tools.backbone)
  own = method.loss_fn or losses.plain(tools.backbone)
  own_gradient = jax.jit(train_step.make_gradient(method, own, sharding.make_mesh(1)))
  memory = method.init(params, tools.stream, tools)
  for task in tools.stream.tasks[:2]:
    memory, params = method.before_task(memory, params, task, tools)
    items = [r for e in task.train for r in tools.text.rows(e) if not r.generative]
    plan = method.plan(memory, task)
    batch, plain_batch = (
      layout(items, 1, Shape(8, 32, 32), tiny.keys(len(items)), tables)
      for tables in (plan.tables, {})
    )
    trained, frozen, _ = trainable.split(params, (('.*', True),))
    groups = Groups.of(plan.groups)
    (mine, _), gradient = own_gradient(
      trained, frozen, memory['teacher'], plan.weights, batch, groups
    )
    (wanted, _), plain = plain_gradient(trained, frozen, {}, {}, plain_batch, Groups())
    assert float(mine) == tiny.nearly(float(wanted))
    rounding.assert_close(gradient, plain, **tiny.GRADIENT)
    params = jax.tree.map(lambda p, g: p - np.float32(0.1) * np.asarray(g), params, gradient)
    memory, params = method.after_task(memory, params, task, tools)
