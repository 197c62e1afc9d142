"""The report on runs as HTML: one run with all its sections, or several compared first."""

import importlib.resources
from collections.abc import Callable, Sequence

from jcl.reports.comparison import Group, group_runs
from jcl.reports.formatting import MISSING, short_method_name
from jcl.reports.history import History, history
from jcl.reports.page import answers, compared, costs, past, scores, training
from jcl.reports.page.legend import legend
from jcl.reports.page.markup import Html, contents, cut, details, join, note, own, tag, text
from jcl.reports.page.source import Source
from jcl.reports.results import Results
from jcl.types import Json

PAGE_CSS = 'html { background: Canvas; color-scheme: light dark; } body { margin: 0; }'
TITLED = 6  # methods that the heading names at most
SECTIONS: tuple[tuple[str, str, Callable[[Source, History], Html]], ...] = (
  ('findings', 'Findings', lambda source, _: training.findings(source)),
  ('scores', 'Scores', scores.scores),
  ('forgetting', 'Forgetting', lambda source, _: scores.forgotten(source)),
  ('flips', 'Negative flips', lambda source, _: answers.flips(source)),
  ('classes', 'Classes', lambda source, _: answers.classes(source)),
  ('training', 'Training', training.training),
  ('pseudo', 'Pseudo samples', lambda source, _: past.pseudo_samples(source)),
  ('own', 'Own answers', lambda source, _: past.own_answers(source)),
  ('buffer', 'Buffer', lambda source, _: past.buffer(source)),
  ('cost', 'Cost', lambda source, _: costs.costs(source)),
  ('run', 'The run', lambda source, _: costs.facts(source)),
)


def document(
  results: Sequence[Results], logs: Sequence[Sequence[Json]] = (), places: Sequence[str] = ()
) -> str:
  """Returns an HTML document that needs no other file.

  Args:
    results: the contents of the runs' `results.json`; with more than one they are compared first.
    logs: the lines of their `metrics.jsonl`, one list for each run; empty: none are at hand.
    places: folder of each run as commands name it; empty, or '' for a run: it is not known.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  inner, title = fragment(results, logs, places), cut(_title(results, group_runs(results)), 120)
  head = join([
    Html('<meta charset="utf-8">'),
    Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
    tag('title', title), tag('style', Html(PAGE_CSS)),
  ])  # fmt: skip
  script = tag('script', Html(_file('page.js')))
  whole = tag('html', join([tag('head', head), tag('body', join([inner, script]))]), lang='en')
  return f'<!DOCTYPE html>\n{whole}\n'


def fragment(
  results: Sequence[Results], logs: Sequence[Sequence[Json]] = (), places: Sequence[str] = ()
) -> Html:
  """Returns the same report as a `div` with its own style, as a notebook shows it: no script.

  Args:
    results, logs, places: as in `document`.

  Raises:
    UserError: the runs cannot be compared, or a matrix is malformed.
  """
  groups, several = group_runs(results, places), len(results) > 1
  lines = [*logs, *[()] * (len(results) - len(logs))]
  places = [*places, *[''] * (len(results) - len(places))]
  sources = [
    Source(run, log, f'run-{i}-' if several else '', place)
    for i, (run, log, place) in enumerate(zip(results, lines, places, strict=True), 1)
  ]
  body = _several(sources, groups) if several else _one(sources[0])
  main = tag('main', join([tag('h1', own(_title(results, groups), 200)), *body, legend()]))
  return tag('div', join([tag('style', Html(_file('page.css'))), main]), class_='jcl')


def _file(name: str) -> str:
  """Returns a file that lies beside this module."""
  return importlib.resources.files('jcl.reports.page').joinpath(name).read_text('utf-8')


def _title(results: Sequence[Results], groups: Sequence[Group]) -> str:
  """Returns the methods and the streams, as a heading."""
  where = sorted({f'{r.get("stream", "")} ({r.get("scenario", MISSING)})' for r in results})
  names = list(dict.fromkeys(short_method_name(group.runs[0]['method']) for group in groups))
  methods = ', '.join(names[:TITLED]) + (', …' if len(names) > TITLED else '')
  seed = f', seed {results[0].get("seed", MISSING)}' if len(results) == 1 else ''
  return f'{methods} on {", ".join(where)}{seed}'


def _one(source: Source) -> list[Html]:
  """Returns the parts of a page on one run."""
  return _run(source)


def _run(source: Source) -> list[Html]:
  """Returns what the page says of one run: its state, the key figures, all its sections."""
  past_ = history(source.results, source.lines)
  found = [(anchor, title, make(source, past_)) for anchor, title, make in SECTIONS]
  filled = [(anchor, title, part) for anchor, title, part in found if part]
  links = [(f'{source.anchor}{anchor}', title) for anchor, title, _ in filled]
  links += [] if source.anchor else [('legend', 'What the numbers mean')]
  return [
    _state(source), scores.in_words(source),
    scores.key_figures(source),
    contents(links, f'Sections of {source.anchor or "this page"}'), *(part for *_, part in filled),
  ]  # fmt: skip


def _state(source: Source) -> Html:
  """Returns whether the run is finished; one that is not says how far it is."""
  if source.results.get('finished', True):
    return Html('')
  tasks = len(source.results['tasks'])
  words = (
    f'Not finished: {source.learned} of {tasks} tasks are learned; this page shows what there is.'
  )
  return tag('p', words, class_='state open')


def _several(sources: Sequence[Source], groups: Sequence[Group]) -> list[Html]:
  """Returns the parts of a page on several runs: the comparison, then each run's own page."""
  labels = {id(run): g.label for g in groups for run in (*g.runs, *g.left_out)}
  parts = [*compared.parts(groups)]
  runs = []
  for source in sources:
    run = source.results
    state = '' if run.get('finished', True) else ', not finished'
    title = own(f'{labels[id(run)]}, seed {run.get("seed", MISSING)}{state}', 200)
    runs.append(details(title, join(_run(source)), class_='run'))
  parts.append(tag('h2', 'The runs', id='runs'))
  parts.append(note(text('Each opens to its own page; one that is open is printed too.')))
  return [*parts, *runs]
