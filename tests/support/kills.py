"""Runs that die by SIGKILL and go on: shared by `test_kills.py` and `launch/soak.py`.

A run announces its events (`run_state.Event`); the same run, killed or not, passes the same.
A child process writes down each and kills itself at the one it was told; the next child, started
alike, goes on. Children are forked by a server that has imported everything and started nothing.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jcl import methods
from jcl.config import Config
from jcl.errors import UserError
from jcl.storage.checkpoint import Snapshots
from jcl.training.run_state import Event
from jcl.training.signals import STATUS, Stopped
from jcl.workdir import open_workdir
from support import runs

PHASES = ('before_task', 'train', 'after_task', 'evaluate')
REFUSED = 2  # exit code
PATIENCE = 300  # seconds that a child may take
PRELOADED = (
  'support.kills', 'orbax.checkpoint', 'jcl.training.loop', 'jcl.training.experiment',
  'jcl.reports.report', 'transformers',
  'matplotlib.pyplot', *(f'jcl.methods.{name}' for name in methods.BUILT_IN),
)  # fmt: skip


def config(method: str, seed: int = 0, **sections: dict[str, Any]) -> Config:
  """A run of two tasks with a dev evaluation and a snapshot at every step and every chunk."""
  base: dict[str, dict[str, Any]] = {
    'stream': {'max_tasks': 2, 'max_train_per_task': 20, 'max_test_per_task': 12},
    'train': {'epochs': 2, 'batch_size': 12, 'seed': seed, 'log_every': 1},
    'evaluate': {'batch_size': 8, 'every_epochs': 1},
    'checkpoint': {'every_steps': 1, 'every_chunks': 1},
  }
  return runs.config(method, **{k: base.get(k, {}) | v for k, v in (base | sections).items()})


def variants(method: str) -> list[dict[str, dict[str, Any]]]:
  """Settings, beside the plain ones, of which a snapshot has to hold more."""
  settings = methods.settings(method)
  found: list[dict[str, dict[str, Any]]] = [
    {}, {'backbone': {'dropout': 0.2}}, {'checkpoint': {'keep_tasks': True}},
    {'train': {'log_every': 3, 'gradient_norms_every': 2}},
  ]  # fmt: skip
  if not settings.starts_afresh:
    found.append({'train': {'optimizer_between_tasks': 'carried'}})
  if 'slow' not in settings.brings:  # what it evaluates follows what trains
    found.append({'train': {'keep_best': True}})
  return found


def kind(event: Event) -> str:
  """Returns the name of an event in a table of kills: the phase of the loop, and the kind."""
  phase = PHASES[(event.done - 2) % 4] if event.done >= 2 else ('init', 'evaluate')[event.done]
  if event.kind == 'chunk' and phase == 'train':
    return 'dev evaluation'
  return f'{phase} {event.kind}' if event.kind in ('step', 'chunk') else event.kind


class Mutant:
  """Broken loops, by name, that the checks must notice."""

  @staticmethod
  def ignores_its_snapshots() -> None:
    """Starts from zero."""
    Snapshots.latest = lambda self, place: None

  @staticmethod
  def forgets_the_journal() -> None:
    """Starts every hook again from its first chunk."""
    real = Snapshots.latest

    def latest(self, place):
      found = real(self, place)
      return found and {**found, 'journal': []}

    Snapshots.latest = latest


def child(made: Config, folder: str, die_at: Event | None, mutant: str) -> None:
  """The body of a child process."""
  with open(f'{folder}.said', 'a') as said:
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
  if mutant:
    getattr(Mutant, mutant)()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  if cache := os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    # A kill may leave half an entry in a cache, which is then warned of for ever.
    jax.config.update('jax_compilation_cache_dir', f'{cache}-kills')
  events = os.open(f'{folder}.events', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.write(events, b'"start"\n')

  def announce(event: Event) -> None:
    os.write(events, (json.dumps(dataclasses.astuple(event)) + '\n').encode())
    if event == die_at:
      os.kill(os.getpid(), signal.SIGKILL)

  workdir = pathlib.Path(folder)
  workdir.mkdir(exist_ok=True)
  try:
    parts = runs.experiment.assemble(made)
    open_workdir(folder, made, read=parts.inputs)
    runs.Loop(parts, workdir, quiet=True, announce=announce).run()
  except Stopped:
    sys.exit(STATUS)
  except UserError as error:
    print(f'error: {error}', flush=True)
    sys.exit(REFUSED)


def server() -> Any:
  """The context whose processes are forked from one that has imported everything."""
  context = multiprocessing.get_context('forkserver')
  tests = str(pathlib.Path(__file__).resolve().parent.parent)
  if tests not in sys.path:
    sys.path.insert(0, tests)
  context.set_forkserver_preload(list(PRELOADED))
  return context


def start(
  made: Config, folder: pathlib.Path, die_at: Event | None = None, after: float = 0,
  gently: bool = False, mutant: str = '', refused: bool = False,
) -> int:  # fmt: skip
  """Runs a child in a workdir to its end -> its exit code.

  Args:
    made: the run.
    folder: its workdir; beside it stand FOLDER.events and FOLDER.said.
    die_at: the event at which it kills itself.
    after: seconds after which it is killed from outside; 0: never.
    gently: by SIGTERM, which it may answer.
    mutant: name of a broken loop.
    refused: whether the run must be refused.
  """
  process = server().Process(target=child, args=(made, str(folder), die_at, mutant))
  process.start()
  process.join(after or PATIENCE)
  if process.exitcode is None and gently:
    process.terminate()
    process.join(PATIENCE)
  hangs = process.exitcode is None and (gently or not after)
  if process.exitcode is None:
    process.kill()
    process.join()
  if hangs:
    raise AssertionError(f'{folder}: it hangs; {said(folder)}')
  ends = (REFUSED,) if refused else (0, STATUS, -signal.SIGKILL, -signal.SIGTERM)
  if process.exitcode not in ends:
    raise AssertionError(f'{folder}: exit code {process.exitcode}; {said(folder)}')
  return process.exitcode


def said(folder: pathlib.Path) -> str:
  """The end of what the children of a workdir said."""
  path = pathlib.Path(f'{folder}.said')
  return path.read_text()[-3000:] if path.exists() else 'it said nothing'


def events(folder: pathlib.Path) -> list[list[Event]]:
  """The events of each of the workdir's children."""
  lives: list[list[Event]] = []
  for line in pathlib.Path(f'{folder}.events').read_text().splitlines():
    found = json.loads(line)
    lives.append([]) if found == 'start' else lives[-1].append(Event(*found))
  return lives


def last_event(folder: pathlib.Path) -> Event | None:
  """Of the last child that came to one."""
  lives = events(folder) if pathlib.Path(f'{folder}.events').exists() else []
  return next((life[-1] for life in reversed(lives) if life), None)


def whole(made: Config, folder: pathlib.Path) -> list[Event]:
  """A run that nobody kills -> its events."""
  assert start(made, folder) == 0
  (life,) = events(folder)
  return life


def chosen(life: Sequence[Event], random: np.random.Generator) -> dict[str, Event]:
  """One event of each kind, in the order in which they come."""
  by_kind: dict[str, list[int]] = {}
  for place, event in enumerate(life):
    by_kind.setdefault(kind(event), []).append(place)
    # The last chunk of a hook is saved and the hook is not done: it goes on from the journal alone.
    ends = place + 1 < len(life) and life[place + 1].done > event.done
    if ends and event.kind == 'snapshot committed' and event.done > 1 and event.done % 4 in (0, 2):
      by_kind.setdefault('hook done', []).append(place)
  places = {name: int(random.choice(found)) for name, found in by_kind.items()}
  return {name: life[place] for name, place in sorted(places.items(), key=lambda item: item[1])}


def last_words(folder: pathlib.Path) -> dict[str, Any]:
  """All that a finished run leaves: results without times, log, and its last snapshot."""
  results = json.loads((folder / 'results.json').read_text())
  assert results['finished']
  del results['seconds'], results['resumes']
  snapshots = Snapshots(folder, write=False)
  found = snapshots.latest()
  snapshots.close()
  assert found is not None
  assert not snapshots.messages, snapshots.messages
  del found['record']['seconds']
  return {
    'results': results,
    'log': (folder / 'metrics.jsonl').read_bytes().splitlines(),
    'kept': sorted(path.name for path in (folder / 'tasks').glob('*')),
    'snapshot': found,
  }


def same(one: Any, other: Any, path: str = '') -> list[str]:
  """Where two trees of plain data and arrays differ, to the bit."""
  if isinstance(one, np.ndarray | np.generic):
    bits = lambda x: (x.shape, x.dtype, x.tobytes())
    return [] if bits(one) == bits(other) else [path]
  if type(one) is not type(other):
    return [path]
  if isinstance(one, dict):
    if list(one) != list(other):
      return [f'{path} keys']
    return [d for k in one for d in same(one[k], other[k], f'{path}/{k}')]
  if isinstance(one, list | tuple):
    if len(one) != len(other):
      return [f'{path} length']
    return [
      d for i, (a, b) in enumerate(zip(one, other, strict=True)) for d in same(a, b, f'{path}/{i}')
    ]
  return [] if one == other or (one != one and other != other) else [path]


def check_repeats(folder: pathlib.Path, made: Config) -> list[tuple[int, int]]:
  """How much each life repeated of the one before, which may not be more than was allowed.

  Returns:
    steps and chunks that each life but the first did again, of those that came to an event.
  """
  lives, most = [life for life in events(folder) if life], made.checkpoint
  repeated = []
  for before, after in itertools.pairwise(lives):
    end, again = before[-1], after[0]
    costs = end.steps - again.steps, end.chunks - again.chunks
    assert costs[0] <= most.every_steps, f'{folder}: {costs[0]} steps done twice after {end}'
    assert costs[1] <= most.every_chunks, f'{folder}: {costs[1]} chunks done twice after {end}'
    repeated.append(costs)
  return repeated


def check_same(killed: pathlib.Path, reference: pathlib.Path) -> None:
  """Asserts that a run with kills ended as the one without, to the bit, and did nothing else."""
  differences = same(last_words(reference), last_words(killed))
  assert not differences, f'{killed} differs from {reference} in {differences[:9]}'
  ends = [last_event(folder) for folder in (reference, killed)]
  ends = [(end.done, end.steps, end.chunks) for end in ends]  # at which of two events: as it comes
  assert ends[0] == ends[1], f'{killed} ended at {ends[1]}, {reference} at {ends[0]}'
