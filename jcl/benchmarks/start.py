"""The workload `start`: a fresh process to its first step, and preflight by the number of rows."""

import csv
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np

from jcl.benchmarks import setting as settings
from jcl.benchmarks.bench import Bench
from jcl.benchmarks.timing import OURS, Case, Work
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.preflight import checks
from jcl.training import experiment

PLACES = {'gpu': 'cuda'}  # jax's name of a platform -> torch's
TASKS = 2  # of the made-up stream for preflight
WORDS = 8  # of its rows
MOST_READ = 1_000_000  # rows of all rounds of preflight together, where one round has no more
CACHE, KEPT_FROM = 'JAX_COMPILATION_CACHE_DIR', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'


def start(bench: Bench) -> list[Case]:
  """Times a fresh process from its start to the end of its first step, then preflight.

  The compile caches of jax and torch are warm, then empty. A process of jcl reads the data, makes
  rows of all of them and takes the first step of a run on the second task; a process of torch
  tokenises the same texts and takes that step.
  """
  here = bench.new_folder()
  model = bench.setting.exported(bench.setting.parts)
  job = here / 'job.json'
  job.write_text(json.dumps(_job(bench, model)))
  names = [c.name for c in bench.contenders]
  warm = {name: bench.new_folder() for name in names}
  works: dict[str, Work] = {name: _process(job, name, warm[name]) for name in names}
  for work in works.values():
    work()
  seconds = bench.alternate('start', works)
  cases = [Case('start', 'start', seconds)]
  cold: dict[str, Work] = {name: _cold(bench, job, name) for name in names}
  cases.append(Case('start/cold', 'start', bench.alternate('start/cold', cold)))
  for count in sorted(bench.setting.request.examples):
    cases.append(_preflight(bench, count))
  return cases


def _job(bench: Bench, model: pathlib.Path) -> dict[str, Any]:
  """Returns what a fresh process is told: model, data, texts and the rows of the first step."""
  one, request = bench.setting, bench.setting.request
  texts = [f'{e.text} {e.answer}' for t in one.parts.stream.tasks for e in (*t.train, *t.test)]
  steps = settings.composed(one.parts, one.plan(one.task.train, []), 1, request.batch_size, 1)
  rows = [
    {'tokens': r.tokens.tolist(), 'targets': r.targets.tolist(), 'wanted': r.wanted.tolist(),
     'generative': r.generative, 'number': r.number}
    for r in steps[0]
  ]  # fmt: skip
  return {
    'model': str(model), 'data': request.data, 'batch_size': request.batch_size,
    'dtype': request.dtype, 'seed': request.seed, 'texts': texts, 'rows': rows,
    'longest': settings.longest_row(one.parts), 'outputs': one.parts.backbone.outputs,
    'weights': one.settings.weights,
    'place': PLACES.get(jax.default_backend(), 'cpu'),
  }  # fmt: skip


def _process(job: pathlib.Path, name: str, cache: pathlib.Path) -> Work:
  """Returns the work of one fresh process.

  Args:
    job: file with what it is told.
    name: of the contender.
    cache: folder of its compile cache.
  """
  module = 'jcl.benchmarks.first_step' if name == OURS else 'jcl.benchmarks.torch_first_step'
  root = pathlib.Path(__file__).resolve().parents[2]
  seen = [str(root), os.environ.get('PYTHONPATH', '')]
  surroundings = {
    **os.environ, CACHE: str(cache), KEPT_FROM: '0.2', 'TORCHINDUCTOR_CACHE_DIR': str(cache),
    'PYTHONPATH': os.pathsep.join(filter(None, seen)),
  }  # fmt: skip

  def run() -> float:
    command = [sys.executable, '-m', module, str(job), name]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
      line = (done.stderr.strip().splitlines() or ['it said nothing'])[-1]
      raise UserError(f'the first step of {name} in a fresh process failed: {line}')
    return 1.0

  return run


def _cold(bench: Bench, job: pathlib.Path, name: str) -> Work:
  """Returns the work of a fresh process whose compile cache is empty."""
  return lambda: _process(job, name, bench.new_folder())()


def _preflight(bench: Bench, count: int) -> Case:
  """Times how a manifest of `count` short rows is read, tokenised and looked over."""
  one, folder = bench.setting, bench.new_folder()
  random = np.random.default_rng(one.request.seed)
  words = sorted({w for e in one.parts.stream.tasks[0].train for w in e.text.split()})
  tasks, each = [], -(-count // TASKS)
  for task in range(TASKS):
    drawn = random.choice(words, (min(each, count - task * each), WORDS))
    named = [(f'{task} {i} {" ".join(w)}', str(w[0])) for i, w in enumerate(drawn)]
    splits = {'train': named, 'test': [(f'test {task}', 'yes')]}
    files = {split: f'{split}{task}.csv' for split in splits}
    for split, rows in splits.items():
      with open(folder / files[split], 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([('text', 'answer'), *rows])
    tasks.append({'name': f'task{task}', **files})
  (folder / 'manifest.json').write_text(json.dumps({'answer': 'answer', 'tasks': tasks}))

  def look_over() -> float:
    config = settings.configured(one.request)
    config.stream = StreamConfig(name='files', path=str(folder / 'manifest.json'))
    config.scenario, config.backbone.path = 'iil', ''
    parts = experiment.assemble(config, loaded=one.loaded(), weights=False)
    checks.checkup(parts)
    return 1.0

  name, rounds = f'start/preflight-{count}', max(MOST_READ // count, 1)
  seconds = bench.alternate(name, {OURS: look_over}, rounds)
  return Case(name, 'stream', seconds, {'examples': float(count)})
