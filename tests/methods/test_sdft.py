"""SDFT: what it refuses and reports; its objective in all settings is in the scorecard."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import objectives
from support import rounding, runs, tiny
from support.scripted import own_answer, scripted

from jcl import methods
from jcl.errors import UserError
from jcl.preflight.footprint import footprint
from jcl.step import losses
from jcl.training import experiment


@pytest.mark.parametrize(
  ('given', 'says'),
  [
    ({'demonstration': 'so: {y}'}, r"method\.demonstration is 'so: \{y\}'; it must be a text with"),
    ({'demonstration': '{y} {x}'}, r'method\.demonstration .* after it, \{y\}'),
    ({'anchor': 'last', 'average_rate': 0.5}, r"method\.average_rate .*anchor 'average'"),
    ({'alpha': 0.0, 'direction': 'reverse'}, r'method\.direction .*alpha'),
    ({'temperature': 0.0, 'top_k': 3}, r'method\.top_k .*temperature'),
    ({'anchor': 'first'}, r"method\.anchor is 'first'; it must be one of 'average'"),
    ({'average_rate': 0.0}, 'above 0'),
  ],
)
def test_settings_that_mean_nothing_are_refused(given, says):
  made = runs.config('sdft')
  for field, value in given.items():
    setattr(made.method, field, value)
  with pytest.raises(UserError, match=says) as error:
    experiment.check(made)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('names', 'says'),
  [
    ('sdft+ema', 'sdft and ema both bring slow parameters'),
    ('sdft+lora', 'lora changes the tree of parameters, of which sdft keeps a copy'),
    ('sdft+derpp', 'sdft and derpp both bring a loss'),
  ],
)
def test_compositions_without_meaning_are_refused(names, says):
  with pytest.raises(UserError, match=says):
    methods.settings(names)


def test_raw_text_and_heads_are_refused():
  made = runs.config('sdft')
  made.scenario = 'cpt'
  with pytest.raises(UserError, match="scenario is 'cpt', in which sdft has no meaning"):
    experiment.assemble(made)
  with pytest.raises(UserError, match=r'backbone\.head is .* scenario out of'):
    experiment.assemble(runs.config('sdft', backbone={'head': 'linear'}))


@pytest.mark.parametrize('names', ['sdft', 'sdft+ewc'])
def test_the_best_parameters_may_be_kept_though_the_teacher_moves(names):
  """Evaluation takes the parameters that train, unlike methods that evaluate an average."""
  parts = experiment.assemble(runs.config(names, train={'keep_best': True}))
  assert parts.method.after_step is not None
  other = names.replace('sdft', 'ema')
  with pytest.raises(UserError, match=r'train\.keep_best is true, but .*ema'):
    experiment.assemble(runs.config(other, train={'keep_best': True}))


def test_states_that_would_take_too_much_are_refused_with_the_figure():
  made = runs.config('sdft', backbone={'width': 4096, 'heads': 32})
  made.method.teacher_cache_mb = 1
  # 40 examples, 3 targets at most and 4096 numbers of 4 bytes are 1.9 MiB.
  with pytest.raises(UserError, match=r'method\.teacher_cache_mb is 1; it must be at least 2, for'):
    experiment.assemble(made)


def test_a_demonstration_that_does_not_fit_is_refused_before_anything_trains(tmp_path):
  with pytest.raises(UserError, match=r'its prompt with a demonstration has .* raise it'):
    runs.run(runs.config('sdft', stream={'max_length': 16}), tmp_path)


def test_cut_demonstrations_are_said():
  parts = experiment.assemble(runs.config('sdft', stream={'max_length': 27, 'max_tasks': 1}))
  task, tools = parts.stream.tasks[0], parts.tools
  longest = max(tools.text.sizes(e)[1] for e in task.train)
  row = lambda e: sum(tools.text.sizes(e)) + tools.text.sizes(e)[0]
  count = sum(row(e) + longest > 27 for e in task.train)
  assert 0 < count < len(task.train)
  parts.method.init(parts.initial_params(), parts.stream, tools)
  wanted = f'kitchen: the inputs in {count} of 40 demonstrations are cut to fit into stream.max_'
  assert [line[: len(wanted)] for line in tools.reports['warnings']] == [wanted]


def test_what_was_drawn_is_reported():
  """Of seven scripted answers one does not end, and some of the others are right."""
  tools = scripted(tiny.tools('plain', examples=7), own_answer)
  method = methods.make(tools.backbone, methods.settings('sdft'))
  params, task = tiny.params(tools.backbone), tools.stream.tasks[1]
  memory = method.init(params, tools.stream, tools)
  memory, params = method.before_task(memory, params, task, tools)
  method.before_epoch(memory, params, task, 4, tools)
  ends = [i for i in range(7) if i % 4 != 3]
  right = [i for i in ends if own_answer(1, i) == f'{task.train[i].answer} <eos>']
  assert right
  assert tools.reports['sdft'] == [
    {'task': 't1', 'epoch': 5, 'asked': 7, 'ended': len(ends), 'right': len(right)}
  ]


def test_the_footprint_counts_the_average_and_the_states():
  """The plan of a run knows the average, and with `current` does without it."""
  sizes = {}
  for anchor in ('average', 'current'):
    made = runs.config('sdft')
    made.method.anchor = anchor
    sizes[anchor] = footprint(experiment.assemble(made))
  whole = sizes['average'].snapshot['parameters']
  memory = {anchor: found.snapshot['memory'] for anchor, found in sizes.items()}
  assert memory['average'] - memory['current'] == whole
  assert all(found.whole for found in sizes.values())


@pytest.mark.slow
@pytest.mark.parametrize('names', ['sdft+replay', 'sdft+ewc'])
def test_it_composes_with_old_rows_and_penalties(names, tmp_path):
  """With alpha 1 the old rows alone have a cross-entropy."""
  results = runs.run(runs.config(names, stream={'max_tasks': 2}, train={'epochs': 1}), tmp_path)
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  second = [line for line in lines if line['task'] == 1]
  assert all(line['kl'] > 0 for line in lines)
  assert all(line['ce'] == 0 for line in lines if line['task'] == 0)
  replays = names == 'sdft+replay'
  assert any(line['ce'] > 0 for line in second) == replays
  assert [mix['old'] > 0 for mix in results['mix']] == [False, replays]
  assert ('ewc' in lines[-1]) != replays


def test_divergence_is_that_of_the_formula():
  """Both directions, all logits or some, far apart and near, and its gradient is finite."""
  random = np.random.default_rng(0)
  for scale in (1e-3, 1.0, 30.0):
    z_MV, y_MV = (scale * random.standard_normal((5, 9)).astype(np.float32) for _ in range(2))
    for reverse in (False, True):
      for top_k in (0, 1, 4, 9):
        of = lambda z, r=reverse, k=top_k: losses.divergence(z, jnp.asarray(y_MV), r, k)
        found = np.asarray(of(jnp.asarray(z_MV)))
        pairs = zip(z_MV.astype(np.float64), y_MV.astype(np.float64), strict=True)
        wanted = [objectives.between(z, y, reverse, top_k) for z, y in pairs]
        # Off by ε times the size of the logits, as each of the differences of logarithms is.
        off = 8 * np.finfo(np.float32).eps * (np.log(9) + np.abs([z_MV, y_MV]).max())
        np.testing.assert_allclose(found, wanted, rtol=rounding.tolerance(16), atol=off)
        slope = jax.grad(lambda z: of(z).sum())(jnp.asarray(z_MV))
        assert np.isfinite(slope).all()
