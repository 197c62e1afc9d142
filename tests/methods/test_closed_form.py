"""Heads that are solved: against oracles, in any order of rows and tasks, and what is said."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from oracles import solvers
from scorecard import chosen as choices
from support import rounding, runs, slow, tiny
from support.chosen_states import chosen
from support.launchers import forks

import jcl
from jcl import methods
from jcl.backbones import heads
from jcl.errors import UserError
from jcl.memory import class_sums
from jcl.methods import closed_form
from jcl.step import sharding
from jcl.training import experiment, loop
from jcl.training.hook_tools import make_tools

ROWS, CLASSES, WIDTH = 240, 5, 12
# Heads in float64, as a share of their largest entry: rounding moves them by eps · the condition of
# what is inverted, at most P / 1e-4 < 1e6 here, hence by 2e-10; a margin of 50 is left.
CLOSE = 1e-8
# Two numbers that are `CLOSE`, each rounded to float32, which moves it by eps / 2 of it at most.
ROUNDED = CLOSE + float(np.finfo(np.float32).eps)


def rows(seed=0):
  """Features [N, P], classes [N] of uneven size, and which rows are held out."""
  random = np.random.default_rng(seed)
  label = np.sort(random.permutation(np.repeat(np.arange(CLASSES), 48) % (CLASSES - 1)))
  label[::7] = CLASSES - 1
  spread = random.standard_normal((WIDTH, WIDTH))
  centre = 2 * random.standard_normal((CLASSES, WIDTH))
  features = centre[label] + random.standard_normal((ROWS, WIDTH)) @ spread
  return features, label, random.random(ROWS) < 0.2


def summed(features, label, share, shares, sizes=(ROWS,)):
  """The sums after the rows came in parts of these sizes, packed and unpacked in between."""
  kept = class_sums.nothing((features.shape[1], CLASSES), shares, second=True)
  ends = np.cumsum(sizes)
  assert ends[-1] == len(features)
  for part in np.split(np.arange(len(features)), ends[:-1]):
    added = class_sums.add(class_sums.unpacked(kept), features[part], label[part], share[part])
    kept = class_sums.packed(added)
  return class_sums.unpacked(kept)


def close(found, wanted):
  """Kernel and bias agree to `CLOSE` of their largest entry."""
  for one, other in zip(found[:2], wanted, strict=True):
    assert np.abs(one - other).max() <= CLOSE * max(np.abs(other).max(), 1)


def test_every_solver_is_its_oracle_on_all_rows():
  features, label, held = rows()
  one, two = (summed(features, label, share, n) for share, n in ((0 * label, 1), (held * 1, 2)))
  close(class_sums.nearest_mean(one), solvers.nearest_mean(features, label, CLASSES))
  for shrinkage in (0.0, 1e-3, 0.3, 1.0):
    strength = shrinkage or solvers.shrinkage(features, label, CLASSES)
    wanted = solvers.discriminant(features, label, CLASSES, strength)
    found = class_sums.discriminant(one, shrinkage)
    close(found, wanted)
    assert found.strength == pytest.approx(strength, rel=CLOSE)
  close(class_sums.ridge(one, 0.1), solvers.ridge(features, label, CLASSES, 0.1))
  best = solvers.chosen(features, label, CLASSES, held)
  found = class_sums.ridge(two, 0.0)
  assert found.strength == best
  close(found, solvers.ridge(features, label, CLASSES, best))


def test_a_class_of_few_rows_is_answered_too():
  """Least squares in which every row counts alike answer a third of this class right."""
  random = np.random.default_rng(3)
  centre, count = random.standard_normal((CLASSES, 60)), [100] * (CLASSES - 1) + [3]
  near = lambda label_N: centre[label_N] + 2 * random.standard_normal((len(label_N), 60))
  label, asked = np.repeat(np.arange(CLASSES), count), np.repeat(np.arange(CLASSES), 400)
  sums = summed(near(label), label, np.zeros(len(label), int), 1, (len(label),))
  answer = (near(asked) @ class_sums.ridge(sums, 0.1).kernel_PC).argmax(1)
  right_C = [(answer[asked == c] == c).mean() for c in range(CLASSES)]
  assert min(right_C) > 0.8, right_C


def test_the_ridge_is_the_one_that_errs_least_on_what_is_held_out():
  """Noise of many features wants a strong ridge, clean rows a weak one."""
  random, strengths = np.random.default_rng(1), []
  for noise in (0.0, 30.0):
    label = np.arange(40) % CLASSES
    features = np.eye(CLASSES)[label] @ random.standard_normal((CLASSES, 60))
    features += noise * random.standard_normal(features.shape)
    held = np.arange(40) // CLASSES % 4 == 0
    strengths.append(class_sums.ridge(summed(features, label, held * 1, 2, (40,)), 0.0).strength)
    assert strengths[-1] == solvers.chosen(features, label, CLASSES, held)
  assert strengths[0] < strengths[1]
  nothing_held = summed(*rows()[:2], np.zeros(ROWS, int), 2)
  assert class_sums.ridge(nothing_held, 0.0).strength == class_sums.UNCHOSEN


def test_the_ridges_that_are_tried_are_progress_of_the_run():
  features, label, held = rows()
  settings, seen = methods.settings('closed_form'), []

  def fold(name, body, carry, chunks):
    seen.append((name, len(chunks)))
    return class_sums.one_by_one(name, body, carry, chunks)

  solve = closed_form.solver_of(settings)
  found = solve(summed(features, label, held * 1, 2), types.SimpleNamespace(fold=fold))
  assert found.strength == solvers.chosen(features, label, CLASSES, held)
  assert seen == [('ridges', len(class_sums.GRID))]


def test_few_rows_are_shrunk_more_than_many():
  """Rows whose true scatter is a sphere are shrunk wholly, and two rows of as many classes too."""
  random, spread = np.random.default_rng(2), np.diag(np.linspace(0.1, 3, 40))
  label = np.arange(4000) % CLASSES
  features = random.standard_normal((4000, 40)) @ spread
  found = []
  for rows in (10, 100, 4000):
    sums = summed(features[:rows], label[:rows], np.zeros(rows, int), 1, (rows,))
    found.append(class_sums.discriminant(sums, 0.0).strength)
  assert 1 > found[0] > 2 * found[1] > 20 * found[2] > 0
  sphere = random.standard_normal((60, 40)), label[:60], np.zeros(60, int), 1, (60,)
  assert class_sums.discriminant(summed(*sphere), 0.0).strength > 0.9
  alone = features[:CLASSES], label[:CLASSES], np.zeros(CLASSES, int), 1, (CLASSES,)
  assert class_sums.discriminant(summed(*alone), 0.0).strength == 1


def test_random_features_are_those_of_the_formula():
  for kind, names in (('ranpac', ['projection']), ('klda', ['projection', 'phase'])):
    chosen = methods.settings('closed_form')
    chosen.solver, chosen.projection, chosen.bandwidth = kind, 5000, 3.0
    config = dataclasses.replace(
      tiny.CONFIG, classes=CLASSES, random_features=chosen.random_features
    )
    head = jax.tree.map(np.asarray, heads.init(jax.random.key(3), config))
    assert sorted({*head} - {'kernel', 'bias'}) == sorted(names)
    state = np.random.default_rng(0).normal(1.0, 2.0, (7, 16)).astype(np.float32)
    wide = [head[name].astype(np.float64) for name in names]
    wanted = (solvers.relu if kind == 'ranpac' else solvers.fourier)(state, *wide)
    found = np.asarray(heads.features(head, state))
    terms, depth = 16, 3  # sums over the width: mean, spread and projection
    scale = np.abs(wanted).max()
    if kind == 'klda':  # a cosine moves by as much as its argument, up to 2 π and the projection
      reach = np.abs(solvers.standardised(state) @ wide[0]).max() + 2 * np.pi
      scale = (2 / 5000) ** 0.5 * reach
    rounding.assert_close(found, wanted, terms, depth, scale=scale)
    width = 1.0 if kind == 'ranpac' else 3.0
    assert head['projection'].std() * 4 * width == pytest.approx(1, rel=0.02)
    one_hot = {**head, 'kernel': np.eye(5000, CLASSES, dtype=np.float32)}
    np.testing.assert_array_equal(heads.project(one_hot, state, config), found[:, :CLASSES])


def made(solver='lda', devices=1, batch_size=8, **fields):
  """The method, tools for it and parameters."""
  chosen = methods.settings('closed_form')
  for name, value in {'solver': solver, 'projection': 24, **fields}.items():
    setattr(chosen, name, value)
  tools = tiny.tools_for(chosen, examples=9, batch_size=batch_size)
  if devices > 1:
    rest = tools.backbone, tools.text, tools.stream, sharding.make_mesh(devices), 0, batch_size
    tools = make_tools(*rest, membership=tools.membership, task_index=tools.task_index)
  return methods.make(tools.backbone, chosen), tools


def learned(method, tools, order=(0, 1, 2), seed=0):
  """The head after the tasks in an order, their rows shuffled, and all that was reported."""
  params, random = tiny.params(tools.backbone), np.random.default_rng(seed)
  memory = method.init(params, tools.stream, tools)
  tools.reports.clear()
  for index in order:
    task = tools.stream.tasks[index]
    mixed = tuple(task.train[i] for i in random.permutation(len(task.train)))
    task = dataclasses.replace(task, train=mixed)
    memory, params = method.after_task(memory, params, task, tools)
    tools.folds.forget()
  return params['head'], memory


def solved(memory, solver):
  """The head in float64 that the sums of a method's memory give."""
  settings = methods.settings('closed_form')
  settings.solver = solver
  sums = class_sums.unpacked(memory['sums'])
  return closed_form.solver_of(settings)(sums, tiny.tools())


@pytest.mark.parametrize('solver', slow.but(['ranpac'], ['ncm', 'lda', 'klda', 'ranpac']))
def test_the_order_of_tasks_rows_and_the_size_of_a_batch_change_nothing(solver):
  """Sums and the heads solved from them agree to `CLOSE`; the model has these heads in float32."""
  method, tools = made(solver)
  first, kept = learned(method, tools)
  wanted = solved(kept, solver)
  for seed, order in enumerate([(2, 0, 1), (1, 2, 0)], 1):
    _, others = made(solver, batch_size=1 + 2 * seed)
    head, memory = learned(method, others, order, seed)
    for name, one in kept['sums'].items():
      assert np.abs(memory['sums'][name] - one).max() <= CLOSE * np.abs(one).max()
    again = solved(memory, solver)
    close(again, wanted[:2])
    np.testing.assert_array_equal(head['kernel'], again.kernel_PC.astype(np.float32))
    np.testing.assert_array_equal(head['bias'], again.bias_C.astype(np.float32))
    for name in head.keys() - {'kernel', 'bias'}:
      np.testing.assert_array_equal(head[name], first[name])


def test_a_row_is_computed_alike_beside_others_in_any_number():
  """On one device in blocks of 64 rows, whatever the batch size: the same bits."""
  method, tools = made('lda')
  found = []
  for size, count in ((8, 27), (3, 11)):
    _, others = made('lda', batch_size=size)
    examples = [e for task in tools.stream.tasks for e in task.train][:count]
    memory = method.init(tiny.params(tools.backbone), tools.stream, others)
    every = others.rows(examples)
    seen = {}
    others.fold_targets(
      others.backbone.hidden, tiny.params(others.backbone), [r for (r,) in every],
      lambda carry, members, values: seen.update(zip(members, values, strict=True)), None,
    )  # fmt: skip
    assert memory['sums']['count'].shape == (1, 6)
    found.append(seen)
  for i, value in found[1].items():
    np.testing.assert_array_equal(value, found[0][i])


@pytest.mark.parametrize('dev', [True, False])
def test_the_state_is_the_one_that_scores_best_on_the_first_task(dev):
  tools = choices.state_by(dev)
  assert 'of task t0 right from 4 rows a class, the best of 12 states' in tools.reports['notes'][0]


def test_a_chosen_state_stays_in_any_order_of_later_tasks():
  params, memory, _ = chosen()
  others, kept, _ = chosen(order=(0, 2, 1))
  assert kept['state'] == memory['state']
  np.testing.assert_array_equal(others['head']['mix'], params['head']['mix'])
  first, again = (solved(one, 'lda') for one in (memory, kept))
  close(again, first[:2])
  for head, of in (params['head'], first), (others['head'], again):
    np.testing.assert_array_equal(head['kernel'], of.kernel_PC.astype(np.float32))


@pytest.mark.slow
def test_devices_choose_the_state_that_one_chooses_whether_or_not_they_share_layers():
  done = forks().module('scorecard.chosen', devices=8, limit=300)
  assert done.status == 0, done.err[-4000:]


@pytest.mark.parametrize(
  ('splits', 'line'),
  [
    ({'train': slice(0, 12, 2)}, 'task t0 has no two classes'),
    ({'train': slice(0, 4), 'dev': slice(0, 0)}, 'neither dev rows nor 5 training rows'),
  ],
)
def test_a_first_task_that_cannot_choose_is_refused(splits, line):
  settings = methods.settings('closed_form')
  settings.choose_state = True
  tools = tiny.tools_for(settings, examples=12)
  first, *rest = tools.stream.tasks
  first = dataclasses.replace(first, **{k: getattr(first, k)[at] for k, at in splits.items()})
  tools = dataclasses.replace(tools, stream=dataclasses.replace(tools.stream, tasks=(first, *rest)))
  with pytest.raises(UserError, match=f'method.choose_state is true, but .*{line}.*backbone.depth'):
    settings.check_run('cil', tools)


def test_states_of_evaluated_rows_are_those_of_the_newest_backbone():
  """Kept states are forgotten where the backbone is cut, and kept where a head alone changes."""
  one = {'layers': {'q': np.ones(3)}, 'head': {'kernel': np.ones(2), 'mix': np.ones(2)}}
  solved = {**one, 'head': {**one['head'], 'kernel': np.zeros(2)}}
  assert loop.same_backbone(one, solved)
  for part in ('layers', 'head'):
    moved = {**one, part: jax.tree.map(np.copy, one[part])}
    assert not loop.same_backbone(one, moved)
  assert not loop.same_backbone(one, {**one, 'lora': np.ones(1)})


@pytest.mark.slow
@pytest.mark.parametrize('adapt', ['model', 'lora'])
def test_the_first_task_alone_adapts_the_model(adapt, tmp_path):
  """Later tasks leave the backbone as it is, whatever their order, and answers stay the same."""
  base = jcl.learn(stream(TEXTS), 'seq', train={'steps': 1}, quiet=True).model
  base.save(tmp_path / 'base')
  backbone = jcl.BackboneConfig(path=str(tmp_path / 'base'), head='linear', pooling='mean')
  rate = {'adapter_learning_rate': 1e-2} if adapt == 'lora' else {'learning_rate': 1e-3}
  train = {'epochs': 3, 'batch_size': 4, **rate}
  given = dict(model=backbone, solver='lda', adapt=adapt, train=train, quiet=True)
  one, two = (
    jcl.learn(stream(order), 'closed_form', **given)
    for order in (('travel', 'home', 'music'), ('travel', 'music', 'home'))
  )
  plain = jcl.learn(stream(TEXTS), 'closed_form', model=backbone, solver='lda', quiet=True).model
  kept = lambda model: {k: v for k, v in model.params.items() if k not in ('head', 'embed')}
  difference = lambda a, b: max(
    jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), kept(a), kept(b)))
  )
  assert 'lora' not in one.model.params
  assert difference(one.model, plain) > 1e-3
  if adapt == 'lora':
    for name in one.model.params['layers'].keys() - {'q', 'v'}:
      jax.tree.map(np.testing.assert_array_equal, one.model.params['layers'][name],
                   plain.params['layers'][name])  # fmt: skip
  assert difference(one.model, two.model) == 0
  asked = [f'{text} {when}' for texts in TEXTS.values() for text in texts for when in WHEN]
  assert one.model.answer(asked) == two.model.answer(asked)


def test_what_is_weak_is_said():
  method, tools = made('lda', shrinkage=1e-18)
  tasks = [dataclasses.replace(t, train=t.train[:3]) for t in tools.stream.tasks]
  tools = dataclasses.replace(tools, stream=dataclasses.replace(tools.stream, tasks=tuple(tasks)))
  learned(method, tools, (0,))
  one, scatter = tools.reports['warnings']
  assert 'of 1 class there is one training row' in one
  assert "'open'" in one
  assert "method.solver 'lda'" in one
  assert 'the scatter of 3 rows in 16 features is singular with method.shrinkage 1e-18' in scatter
  assert tools.reports['closed_form'][0]['singular'] is True
  alone = [dataclasses.replace(t, train=t.train[:2]) for t in tools.stream.tasks]
  tools = dataclasses.replace(tools, stream=dataclasses.replace(tools.stream, tasks=tuple(alone)))
  head, _ = learned(method, tools, (0,))
  assert 'singular with method.shrinkage 1e-18; 1 is used' in tools.reports['warnings'][-1]
  assert all(np.isfinite(x).all() for x in head.values())


@pytest.mark.parametrize(
  ('backbone', 'scenario', 'line'),
  [
    ({'head': ''}, 'cil', r"backbone\.head is '', but closed_form needs a head .*; give linear$"),
    ({'head': 'cosine'}, 'cil', r"backbone\.head is 'cosine', but closed_form writes a linear"),
    ({}, 'iil', r"scenario is 'iil', in which closed_form has no meaning; use cil, til, dil"),
  ],
)
def test_what_cannot_be_solved_is_refused(backbone, scenario, line):
  config = runs.config('closed_form', backbone=backbone)
  config.scenario = scenario
  with pytest.raises(UserError, match=line):
    experiment.assemble(config)


@pytest.mark.parametrize(
  ('section', 'field', 'value'),
  [('train', 'epochs', 2), ('train', 'learning_rate', 1e-3), ('train', 'keep_best', True),
   ('adversarial', 'epsilon', 0.1), ('evaluate', 'every_epochs', 1)],
)  # fmt: skip
def test_settings_of_steps_are_refused(section, field, value):
  config = runs.config('closed_form')
  setattr(getattr(config, section), field, value)
  with pytest.raises(UserError, match=rf'{section}\.{field} .* closed_form takes no training step'):
    experiment.assemble(config)


TEXTS = {
  'travel': ('book a flight', 'find a hotel'), 'home': ('turn on the lamp', 'lock the door'),
  'music': ('play a song', 'skip this track'),
}  # fmt: skip
WHEN = ('now', 'please', 'today', 'at once', 'for me', 'again', 'in the morning', 'for two', 'soon')


def stream(order):
  """Three tasks of two intents, in an order."""
  row = lambda text, when: {'text': f'{text} {when}', 'label': text}
  of = lambda name, words: [row(text, when) for text in TEXTS[name] for when in words]
  tasks = {name: of(name, WHEN[:6]) for name in order}
  return jcl.Stream.from_rows(tasks, test={name: of(name, WHEN[6:]) for name in order})


@pytest.mark.slow
@pytest.mark.parametrize('solver', ['ncm', 'lda', 'ranpac', 'klda'])
def test_every_order_of_tasks_gives_every_row_the_same_answer(solver, tmp_path):
  """With one model from a folder; exported and opened again it answers alike, too."""
  small = {} if solver in ('ncm', 'lda') else {'projection': 64}
  base = jcl.learn(stream(TEXTS), 'seq', train={'steps': 1}, quiet=True).model
  base.save(tmp_path / 'base')
  backbone = jcl.BackboneConfig(path=str(tmp_path / 'base'), head='linear', pooling='mean')
  asked = [f'{text} {when}' for texts in TEXTS.values() for text in texts for when in WHEN]
  answers, kernels = [], []
  for number, order in enumerate((('travel', 'home', 'music'), ('music', 'travel', 'home'))):
    done = jcl.learn(
      stream(order), 'closed_form', model=backbone, solver=solver, quiet=True,
      workdir=tmp_path / f'run{number}', evaluate={'batch_size': 5 + 30 * number}, **small,
    )  # fmt: skip
    model = done.model
    answers.append(model.answer(asked))
    kernel = np.asarray(model.params['head']['kernel'])
    kernels.append({label: kernel[:, i] for i, label in enumerate(model.labels)})
    model.save(tmp_path / f'out{number}')
    assert jcl.load_model(tmp_path / f'out{number}').answer(asked) == answers[-1]
    assert jcl.load_model(tmp_path / f'run{number}').answer(asked) == answers[-1]
    said = json.loads((tmp_path / f'run{number}' / 'results.json').read_text())['closed_form']
    assert [line['rows'] for line in said] == [12, 24, 36]
  assert answers[0] == answers[1]
  largest = max(np.abs(column).max() for column in kernels[0].values())
  for label, column in kernels[0].items():
    assert np.abs(kernels[1][label] - column).max() <= ROUNDED * largest
