"""Readers of published streams of tasks, from the files as their authors published them.

`stream.path` is the folder that holds the files; the order of tasks is a published one, or names of
tasks (`stream.task_order`). Published dev files do not become dev splits. In two published copies
of these streams the dev files of some tasks equal their test files, and in a third copy they share
rows with them, so a choice made on such a dev file is made on test. A dev split is carved from
train where one is needed, and a line at the start of a run says what the dev files share with test.

- `long_sequence`: 15 tasks of classification (Razdaibiedina et al. 2023, "Progressive Prompts"), in
  the three orders that O-LoRA (Wang et al. 2023) calls 4 to 6.
- `standard_cl`: five of them. The orders `i` to `iv` are those of de Masson d'Autume et al. (2019),
  the orders `1` to `3`, of four tasks without yelp, those of O-LoRA.
- `trace`: eight tasks with free answers (Wang et al. 2023, "TRACE").
- `superni`: 15 tasks of Super-NaturalInstructions (Wang et al. 2022) in the two orders of SAPT
  (Zhao et al. 2024).
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams.benchmarks import published_files
from jcl.streams.chat import is_list
from jcl.streams.files import read_text
from jcl.streams.json_tables import json_value, list_records
from jcl.streams.raw import RawRow, RawStream, RawTask, normalized_text, permutation
from jcl.streams.records import Record, found, value

EVALUATED = 100  # instances at the start of an undivided task of SuperNI that are its test split
ALIASES = {'boolqa': 'boolq', 'sst-2': 'sst2'}
LONG_SEQUENCE = {
  '1': 'mnli cb wic copa qqp boolqa rte imdb yelp amazon sst-2 dbpedia agnews multirc yahoo',
  '2': 'multirc boolqa wic mnli cb copa qqp rte imdb sst-2 dbpedia agnews yelp amazon yahoo',
  '3': 'yelp amazon mnli cb copa qqp rte imdb sst-2 dbpedia agnews yahoo multirc boolqa wic',
}
STANDARD = {
  'i': 'yelp agnews dbpedia amazon yahoo',
  'ii': 'dbpedia yahoo agnews amazon yelp',
  'iii': 'yelp yahoo amazon dbpedia agnews',
  'iv': 'agnews yelp amazon yahoo dbpedia',
  '1': 'dbpedia amazon yahoo agnews',
  '2': 'dbpedia amazon agnews yahoo',
  '3': 'yahoo amazon agnews dbpedia',
}
TRACE = {'1': 'C-STANCE FOMC MeetingBank Py150 ScienceQA NumGLUE-cm NumGLUE-ds 20Minuten'}
# Metrics of the paper, but for 20Minuten: Rouge-L, as in the authors' code, in place of SARI.
TRACE_METRICS = {
  '': 'exact_match', 'ScienceQA': 'first_word', 'C-STANCE': 'first_word', 'FOMC': 'first_word',
  'MeetingBank': 'rouge_l', 'Py150': 'edit_similarity', '20Minuten': 'rouge_l',
}  # fmt: skip
SUPERNI = {
  '1': (
    'task1572_samsum_summary task363_sst2_polarity_classification task1290_xsum_summarization '
    'task181_outcome_extraction task002_quoref_answer_generation '
    'task1510_evalution_relation_extraction task639_multi_woz_user_utterance_generation '
    'task1729_personachat_generate_next task073_commonsenseqa_answer_generation '
    'task1590_diplomacy_text_generation task748_glucose_reverse_cause_event_detection '
    'task511_reddit_tifu_long_text_summarization task591_sciq_answer_generation '
    'task1687_sentiment140_classification task875_emotion_classification'
  ),
  '2': (
    'task748_glucose_reverse_cause_event_detection task073_commonsenseqa_answer_generation '
    'task1590_diplomacy_text_generation task639_multi_woz_user_utterance_generation '
    'task1572_samsum_summary task1687_sentiment140_classification task591_sciq_answer_generation '
    'task363_sst2_polarity_classification task1510_evalution_relation_extraction '
    'task1729_personachat_generate_next task181_outcome_extraction '
    'task511_reddit_tifu_long_text_summarization task002_quoref_answer_generation '
    'task1290_xsum_summarization task875_emotion_classification'
  ),
}


class Published(NamedTuple):
  """A published stream of tasks.

  Attributes:
    orders: maps the name of each published order to its tasks; the first one is the default.
    files: paths of a split's file, with `{task}` and `{split}`; the first that exists is read.
    columns: fields of a row that hold its input and its output.
    text: (definition of the task, input) -> text of a row, without the answer.
    template: template of a plain row, as `stream.template`.
    labels: whether outputs are classes; else answers are free.
    dev: name of the published dev split.
    whole: paths of a file that holds a task without splits, with `{task}`.
    metrics: maps a task to the name of its published metric; `''` maps to that of all other tasks.
  """

  orders: Mapping[str, str]
  files: Sequence[str]
  columns: tuple[str, str]
  text: Callable[[str, str], str]
  template: str
  labels: bool = False
  dev: str = 'dev'
  whole: Sequence[str] = ()
  metrics: Mapping[str, str] = {}


def read(config: StreamConfig) -> RawStream:
  """Reads the published stream that `config.name` names.

  Raises:
    UserError: files are missing or malformed, or `stream.task_order` names no order.
  """
  if config.name not in STREAMS:
    raise UserError(f'stream.name is {config.name!r}: give one of {", ".join(STREAMS)}')
  stream, folder = STREAMS[config.name], published_files(config)
  names = ordered(stream, config)
  notes: list[str] = []
  tasks = [task_of(stream, folder, name, names, notes) for name in names]
  notes += notes_on_dev(stream, folder, tasks)
  metrics = {name: stream.metrics.get(name, stream.metrics.get('', '')) for name in names}
  made = RawStream(config.name, tasks, stream.template, overlap='keep', notes=notes)
  return made._replace(metrics=metrics)


def ordered(stream: Published, config: StreamConfig) -> list[str]:
  """Returns the names of the tasks in the order of the settings.

  Raises:
    UserError: `stream.task_order` is neither a published order nor a list of tasks.
  """
  given = config.task_order.strip() or next(iter(stream.orders))
  names = stream.orders[given].split() if given in stream.orders else split_names(given)
  known = sorted({name for order in stream.orders.values() for name in order.split()})
  wrong = [name for name in names if name not in known or names.count(name) > 1]
  if wrong or not names:
    what = f', where {wrong[0]!r} is no task or stands twice' if wrong else ''
    raise UserError(
      f'stream.task_order is {given!r}{what}: give a published order ({", ".join(stream.orders)}) '
      f'or, with commas between them, tasks out of {", ".join(known)}'
    )
  return [names[i] for i in permutation(len(names), config.order_seed)]


def split_names(text: str) -> list[str]:
  """Returns the names of a list that has commas between them."""
  return [name.strip() for name in text.split(',') if name.strip()]


def task_of(
  stream: Published, folder: pathlib.Path, name: str, names: Sequence[str], notes: list[str]
) -> RawTask:
  """Reads one task.

  Args:
    stream: the published stream.
    folder: folder of the stream's files.
    name: name of the task.
    names: tasks of the run, for the message where a file is missing.
    notes: grows by a line for each thing that was decided about a file.

  Raises:
    UserError: a file is missing or malformed.
  """
  whole = first_file(folder, stream.whole, name)
  if whole is not None and not first_file(folder, stream.files, name, 'train'):
    rows = rows_of(stream, whole, notes)
    if len(rows) <= EVALUATED:
      raise UserError(
        f'{called(whole)}: {len(rows)} instances, of which the first {EVALUATED} are test: '
        'give a file with more'
      )
    notes.append(f'files without splits: the first {EVALUATED} instances are test, others train')
    return RawTask(name, rows[EVALUATED:], rows[:EVALUATED])
  splits = {}
  for split in ('train', 'test'):
    file = first_file(folder, stream.files, name, split)
    if file is None:
      raise missing(stream, folder, name, split, names)
    splits[split] = rows_of(stream, file, notes)
  return RawTask(name, **splits)


def first_file(
  folder: pathlib.Path, patterns: Sequence[str], task: str, split: str = ''
) -> pathlib.Path | None:
  """Returns the first existing file of a task among path patterns; None where none exists."""
  names = [task, *([ALIASES[task]] if task in ALIASES else [])]
  files = (folder / p.format(task=name, split=split) for p in patterns for name in names)
  return next((file for file in files if file.is_file()), None)


def missing(
  stream: Published, folder: pathlib.Path, name: str, split: str, names: Sequence[str]
) -> UserError:
  """Returns the error for a missing file; its message names the tasks whose files exist."""
  both = ('train', 'test')
  there = [n for n in names if all(first_file(folder, stream.files, n, s) for s in both)]
  wanted = folder / stream.files[0].format(task=name, split=split)
  instead = f', or leave it out: stream.task_order={",".join(there)}' if there else ''
  return UserError(f'{wanted}: no file of task {name!r} is there: add it{instead}')


def rows_of(stream: Published, file: pathlib.Path, notes: list[str]) -> list[RawRow]:
  """Reads the rows of one file.

  Args:
    stream, notes: as in `task_of`.
    file: the file.

  Raises:
    UserError: the file is malformed, empty, or has a row without input or output.
  """
  definition, records = records_of(file)
  if not records:
    raise UserError(f'{called(file)}: the file has no rows: download it again')
  source, target = stream.columns
  several, rows = 0, []
  for record in records:
    given = found(record, target)
    several += 1 if is_list(given) and len(given) > 1 else 0
    text, answer = value(record, source), value(record, target, first=True)
    for column, written in ((source, text), (target, answer)):
      if not written.strip():
        raise UserError(
          f'{record.where}: field {column!r} is empty: fill it in, or download the file again'
        )
    text = stream.text(definition, text)
    made = RawRow(record.where, text, label=answer.strip()) if stream.labels else None
    rows.append(made or RawRow(record.where, text, answer))
  if several:
    notes.append(f'{called(file)}: {several} rows have several outputs: the first one counts')
  return rows


def records_of(file: pathlib.Path) -> tuple[str, list[Record]]:
  """Returns the definition of a task, '' where its file has none, and its rows.

  The file is a list of rows, or an object with `Instances` and `Definition` (the form of
  Super-NaturalInstructions).

  Raises:
    UserError: the file is malformed.
  """
  name = called(file)
  text = read_text(file, name, 'download it again')
  if not text.lstrip().startswith('{'):
    return '', [record._replace(noun='field') for record in list_records(text, name, [])]
  document = json_value(text, name, float)
  instances = document.get('Instances') if isinstance(document, dict) else None
  if not isinstance(instances, list) or not all(isinstance(row, dict) for row in instances):
    raise UserError(f"{name}: no list 'Instances' of objects: download the file again")
  definition = document.get('Definition', '') if isinstance(document, dict) else ''
  if is_list(definition):
    definition = definition[0] if definition else ''
  if not isinstance(definition, str):
    raise UserError(f"{name}: 'Definition' is no text: download the file again")
  rows = enumerate(instances)
  return definition.strip(), [Record(f'{name}:Instances[{i}]', r, 'field') for i, r in rows]


def called(file: pathlib.Path) -> str:
  """Returns how messages name a file: `folder/name`."""
  return '/'.join(file.parts[-2:])


def notes_on_dev(
  stream: Published, folder: pathlib.Path, tasks: Sequence[RawTask]
) -> Iterator[str]:
  """Yields one line that says what the published dev files share with test, if there are any."""
  there, equal, shared = 0, [], []
  for task in tasks:
    file = first_file(folder, stream.files, task.name, stream.dev)
    if file is None:
      continue
    there += 1
    try:
      dev = [normalized_text(row.text) for row in rows_of(stream, file, [])]
    except UserError:  # no run needs the dev file, so a malformed one does no harm
      continue
    test = {normalized_text(row.text) for row in task.test}
    count = sum(text in test for text in dev)
    if count and set(dev) == test:
      equal.append(task.name)
    elif count:
      shared.append(f'{task.name} {count}')
  if not there:
    return
  faults = [f'equal the test file of {", ".join(equal)}'] if equal else []
  faults += [f'share rows with the test file of {", ".join(shared)}'] if shared else []
  what = f', for they {" and ".join(faults)}' if faults else ''
  yield (
    f'published dev files of {there} tasks are not read{what}: a dev split is carved from train '
    'where one is needed (stream.dev_fraction)'
  )


def asked(definition: str, text: str) -> str:
  """Returns an input of Long Sequence without its last line `Answer:`, which the template adds."""
  text = text.strip()
  return '\n'.join(filter(None, (definition, text.removesuffix('Answer:').strip())))


def instructed(definition: str, text: str) -> str:
  """Returns the prompt of a Super-NaturalInstructions instance, as SAPT writes it."""
  instruction = f'Definition: {definition}\n\nNow complete the following example -\n'
  return f'{instruction if definition else ""}Input: {text.strip()}'


_LONG = Published(
  LONG_SEQUENCE,
  ('{split}/{task}_T5.json', '{split}/{task}.json', '{task}/{split}.json'),
  ('input', 'output'),
  asked,
  '{x}\nAnswer: {y}',
  labels=True,
)
STREAMS = {
  'long_sequence': _LONG,
  'standard_cl': _LONG._replace(orders=STANDARD),
  'trace': Published(
    TRACE,
    ('{task}/{split}.json',),
    ('prompt', 'answer'),
    lambda _, text: text,
    '{x} {y}',
    dev='eval',
    metrics=TRACE_METRICS,
  ),
  'superni': Published(
    SUPERNI,
    ('{task}/{split}.json', 'SuperNI/{task}/{split}.json'),
    ('input', 'output'),
    instructed,
    '{x}\nOutput: {y}',
    whole=('{task}.json', 'tasks/{task}.json'),
    metrics={'': 'rouge_l'},
  ),
}
