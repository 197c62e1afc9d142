"""A column of no method: the norm of the gradient of each term, of one batch and in a run."""

import functools
import json
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
from oracles import penalties
from support import runs, tiny

from jcl.batching import batch as batches
from jcl.batching import batch_shapes
from jcl.batching.batch import Shape
from jcl.memory import fisher
from jcl.step import losses, sharding, trainable
from jcl.step.term_norms import make_term_norms
from jcl.training import experiment
from jcl.training.loop import Loop
from scorecard.cases import WAYS, flat, host
from scorecard.wrong import above, equal, near

BACKBONE, VOCABULARY = tiny.recurrent(tiny.CONFIG.vocabulary), tiny.CONFIG.vocabulary
METHOD = tiny.taught(BACKBONE)._replace(
  penalty_fn=lambda params, teacher: {'ewc': fisher.quadratic(params, tiny.past(teacher))}
)
WEIGHTS = {'ce': 0.7, 'mse': 0.3, 'ewc': 0.2, 'l1_norm': 0.4, 'l2_norm': 0.6}
RULES = (('embed', False), ('mix', np.arange(16) < 5), ('.*', True))
STEPS, EVERY, LAMBDA = 7, 2, 50.0


def measured() -> None:
  """The norms are those of gradients by hand, on all ways; what is frozen has no part in them."""
  params, teacher = (tiny.params(BACKBONE, seed) for seed in (0, 1))
  for rules, trains in (
    ((('.*', True),), dict.fromkeys(params, 1.0)),
    (RULES, {'embed': 0.0, 'mix': 1.0 * (np.arange(16) < 5)[:, None], 'bias': 1.0}),
  ):
    wanted = _by_hand(params, teacher, trains)
    for way in WAYS:
      found = _found(params, teacher, rules, way)
      equal(f'{way}: terms', sorted(found), sorted(WEIGHTS))
      for term, norm in wanted.items():
        above(f'norm of {term}', norm, 0.1)
        near(f'norm of {term}, {way}', found[term], norm, 1e-5)
  in_a_run()


def _found(params: Any, teacher: Any, rules: Any, way: str) -> dict[str, float]:
  """Measures; on eight devices that share parameters several rows stand in a line."""
  devices, sharded, microbatches = WAYS[way]
  mesh, blocks, rows = sharding.make_mesh(devices), devices * microbatches, tiny.rows()
  shape = Shape(16, 20, 64)
  if sharded:
    shape = batch_shapes.packed_rungs([rows], blocks, len(rows), 16)[0]
  batch = batches.layout(rows, blocks, shape, tiny.keys(len(rows)))
  put = lambda tree: sharding.place(tree, mesh, sharding.specs(tree, mesh, sharded))
  trained, frozen, masks = trainable.split(params, rules)
  fixed = put(frozen), sharding.place(masks, mesh), {}
  fn = make_term_norms(
    METHOD, METHOD.loss_fn, mesh, fsdp=sharded, microbatches=microbatches, norms=losses.norms
  )
  weights = {term: np.float32(weight) for term, weight in WEIGHTS.items()}
  batch = sharding.place_batch(batch, mesh)
  return {
    term: float(jax.block_until_ready(norm))
    for term, norm in fn(put(trained), fixed, put(teacher), weights, batch).items()
  }


def _by_hand(params: Any, teacher: Any, trains: dict[str, Any]) -> dict[str, float]:
  """Weight · ‖gradient‖ of each term over the entries that train, in float64."""
  wide = lambda tree: {name: np.asarray(x['kernel'], np.float64) for name, x in tree.items()}
  theta, past, rows = wide(params), wide(teacher), tiny.rows()
  nothing = {name: np.zeros_like(x) for name, x in theta.items()}
  gradients = {'ce': dict(nothing), 'mse': dict(nothing)}
  for term, replay in (('ce', False), ('mse', True)):
    own = [row for row in rows if row.replay == replay]
    count = sum(len(row.targets) for row in own)
    for row in own:
      given = row.tokens, row.targets
      z_MV = penalties.logits(theta, given, VOCABULARY)
      if replay:
        dz_MV = 2 * (z_MV - penalties.logits(past, given, VOCABULARY)) / VOCABULARY
      else:
        dz_MV = penalties.softmax(z_MV) - np.eye(VOCABULARY)[row.wanted]
      pulled = penalties.pulled_back(theta, given, dz_MV / count)
      gradients[term] = {name: gradients[term][name] + pulled[name] for name in theta}
  gradients['ewc'] = {name: 2 * past[name] ** 2 * (theta[name] - past[name]) for name in theta}
  gradients['l1_norm'] = {name: np.sign(theta[name]) for name in theta}
  gradients['l2_norm'] = {name: 2 * theta[name] for name in theta}
  return {
    term: WEIGHTS[term] * np.sqrt(sum(((g[n] * trains[n]) ** 2).sum() for n in theta))
    for term, g in gradients.items()
  }


def in_a_run() -> None:
  """A run says the norm of lambda · 2 F (θ − θ*) at the parameters after each step that is due."""
  made = runs.config(
    'ewc', stream={'max_tasks': 2}, train={'steps': STEPS, 'gradient_norms_every': EVERY}
  )
  made.method.lambda_ewc = LAMBDA
  with tempfile.TemporaryDirectory() as folder:
    loop, after = Loop(experiment.assemble(made), pathlib.Path(folder), quiet=True), []
    step = loop.trainer.train_step

    def kept(state, fixed, *rest):
      state, metrics = step(state, fixed, *rest)
      after.append((host(state['params']), host(fixed[2])))
      return state, metrics

    loop.trainer.train_step = kept
    loop.run()
    lines = map(json.loads, (pathlib.Path(folder) / 'metrics.jsonl').read_text().splitlines())
    found = {
      (x['task'], x['step']): x['gradient_norms']['ewc'] for x in lines if 'gradient_norms' in x
    }
  equal('steps that are measured', [*found], [(1, 2), (1, 4), (1, 6), (1, STEPS)])
  for (task, number), norm in found.items():
    params, past = after[task * STEPS + number - 1]
    slope = functools.partial(
      jax.tree.map, lambda f, x, a: 2 * LAMBDA * f.astype(np.float64) * (x - a)
    )
    wanted = np.linalg.norm(flat(slope(past['fisher'], params, past['anchor'])))
    above(f'norm after step {number}', wanted, 1e-3)
    near(f'norm after step {number}', norm, wanted, 1e-5)
