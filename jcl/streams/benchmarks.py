"""Readers of published data sets, from the files as their authors published them.

`stream.path` is the folder that holds the files, or the file itself. Texts, classes and splits are
those of the files. Training texts that a test split has too are counted and, as in published
figures, kept, unless `stream.overlap` says otherwise.
"""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard

from jcl.config import StreamConfig
from jcl.errors import UserError, count_of
from jcl.storage import paths
from jcl.streams.files import read_text
from jcl.streams.json_tables import json_value
from jcl.streams.raw import TEMPLATE, RawRow, RawStream, RawTask, permutation
from jcl.streams.records import value
from jcl.streams.splits import class_tasks
from jcl.streams.tables import lines, table

QUESTION = 'Question: {x}\n Short Answer: {y}'
RELATION = '{x}\n The relation: {y}'
CONCEPT_TASKS = 10

Splits = dict[str, Sequence[RawRow]]
TaskReader = Callable[[pathlib.Path, StreamConfig], list[RawTask]]


class Benchmark(NamedTuple):
  """A published data set: the reader of its tasks, and the template of its plain rows."""

  tasks: TaskReader
  template: str = TEMPLATE


def read(config: StreamConfig) -> RawStream:
  """Reads the benchmark that `config.name` names.

  Raises:
    UserError: files are missing or malformed.
  """
  if config.name not in BENCHMARKS:
    raise UserError(f'stream.name is {config.name!r}: give one of {", ".join(BENCHMARKS)}')
  benchmark = BENCHMARKS[config.name]
  tasks = benchmark.tasks(published_files(config), config)
  return RawStream(config.name, tasks, benchmark.template, overlap='keep')


def published_files(config: StreamConfig) -> pathlib.Path:
  """Returns the folder of the published files of a data set.

  Raises:
    UserError: `stream.path` is empty.
  """
  if not config.path:
    raise UserError(
      f'stream.path is empty: give the folder of the published files of {config.name}'
    )
  return paths.local(config.path, 'stream.path')


def classed(read_splits: Callable[[pathlib.Path], Splits]) -> TaskReader:
  """Returns the reader that cuts a data set with classes into tasks, see `class_tasks`."""
  return lambda path, config: class_tasks(
    read_splits(path), config.classes_per_task, config.order_seed
  )


def clinc150(path: pathlib.Path) -> Splits:
  """Reads CLINC150, `data_full.json` (Larson et al. 2019), without its out-of-scope texts."""
  path = path / 'data_full.json' if path.is_dir() else path
  data = json_value(read_text(path, str(path)), str(path))
  splits: Splits = {}
  for split, name in (('train', 'train'), ('dev', 'val'), ('test', 'test')):
    if not isinstance(data, dict) or not isinstance(data.get(name), list):
      raise UserError(f'{path}: no list {name!r}: give the data_full.json of CLINC150')
    rows = []
    for index, pair in enumerate(data[name]):
      where = f'{path.name}:{name}[{index}]'
      if not strings(pair) or len(pair) != 2:
        raise UserError(f'{where}: not a pair of text and label: mend or download the file again')
      rows.append(RawRow(where, pair[0], label=pair[1]))
    splits[split] = rows
  return splits


def banking77(path: pathlib.Path) -> Splits:
  """Reads Banking77 (Casanueva et al. 2020): train.csv and test.csv; no dev split.

  Categories that are not in categories.json are refused; copies of the data set lack this file.
  """
  folder = path if path.is_dir() else path.parent
  file = folder / 'categories.json'
  known = json_value(read_text(file, str(file)), str(file)) if file.is_file() else None
  if known is not None and not strings(known):
    raise UserError(f'{file}: not a list of category names: download the file again')
  splits: Splits = {}
  for split in ('train', 'test'):
    rows = []
    for record in table(folder / f'{split}.csv', str(folder / f'{split}.csv')):
      text, category = (value(record, column) for column in ('text', 'category'))
      if known is not None and category not in known:
        raise UserError(
          f'{record.where}: category {category!r} is not in categories.json: correct one'
        )
      rows.append(RawRow(short(record.where), text, label=category))
    splits[split] = rows
  return splits


def hwu64(path: pathlib.Path) -> Splits:
  """Reads HWU64, fold 1 of ten (Liu et al. 2019), the split of Casanueva et al. 2020; no dev split.

  The class is `scenario_intent`; the text is `answer_from_anno`, the utterance without its
  annotation, as in that split. Answer ids repeat in these files and are not read.
  """
  fold = path / 'KFold_1' if (path / 'KFold_1').is_dir() else path
  splits: Splits = {}
  for split, folder in (('train', fold / 'trainset'), ('test', fold / 'testset' / 'csv')):
    files = sorted(folder.glob('*.csv'))
    if not files:
      raise UserError(f'{folder}: no csv files: give the folder that holds KFold_1')
    rows = []
    for file in files:
      for record in table(file, f'{split}/{file.name}', ';'):
        names = ('scenario', 'intent', 'answer_from_anno')
        scenario, intent, text = (value(record, name) for name in names)
        rows.append(RawRow(record.where, text, label=f'{scenario}_{intent}'))
    splits[split] = rows
  return splits


def snips(path: pathlib.Path) -> Splits:
  """Reads SNIPS in the split of Goo et al. 2018: `seq.in` and `label` in train, dev and test."""
  splits: Splits = {}
  for split in ('train', 'dev', 'test'):
    texts, labels = (lines(path / split / f, str(path / split / f)) for f in ('seq.in', 'label'))
    if len(texts) != len(labels):
      raise UserError(
        f'{path / split}: {count_of(len(texts), "line")} in seq.in and {len(labels)} in label: '
        'they belong together line by line'
      )
    splits[split] = [
      RawRow(f'{split}/seq.in:{i}', text, label=label.strip())
      for i, (text, label) in enumerate(zip(texts, labels, strict=True), 1)
    ]
  return splits


def fewrel(path: pathlib.Path) -> Splits:
  """Reads few-shot continual FewRel (Qin and Joty 2022): 10 relations have 100 rows, 70 a few.

  Given a folder, the files with 5 rows a relation are read; given another `train_0.txt` of theirs,
  that file and the same test set. The text is the sentence and its two entities, without which
  no relation can be recognised. There is no dev split.
  """
  shot = 'CFRLdata_10_100_10_5'
  folder = path / 'cfrl' if (path / 'cfrl').is_dir() else path
  train = folder / shot / 'train_0.txt' if folder.is_dir() else path
  folder = folder if folder.is_dir() else path.parent.parent
  names = lines(folder / 'relation_name.txt', str(folder / 'relation_name.txt'))
  test = folder / shot / 'test_0.txt'
  return {'train': relation_rows(train, names), 'test': relation_rows(test, names)}


def relation_rows(path: pathlib.Path, names: Sequence[str]) -> list[RawRow]:
  """Reads tab-separated rows of relation, candidates, sentence, head, place of the head, tail, …"""
  rows = []
  for number, line in enumerate(lines(path, str(path)), 1):
    where = f'{path.parent.name}/{path.name}:{number}'
    fields = line.split('\t')
    if len(fields) < 6 or not fields[0].isdecimal() or not 1 <= int(fields[0]) <= len(names):
      raise UserError(
        f'{where}: not a relation number from 1 to {len(names)} and sentence, head and tail '
        'in tab-separated columns: mend or download the file again'
      )
    sentence, head, tail = (fields[i].strip() for i in (2, 3, 5))
    text = f'{sentence} Head: {head}. Tail: {tail}.'
    rows.append(RawRow(where, text, label=names[int(fields[0]) - 1].strip()))
  return rows


def concept1k(path: pathlib.Path, config: StreamConfig) -> list[RawTask]:
  """Reads Concept-1K, `dataset.txt` (Zheng et al. 2024): free answers, for the scenario iil.

  A block has five lines: `(concept, relation, object)`, a training question and its answer, a test
  question and its answer; their marks `Q1:`, `A1:` … are taken off. Concepts, in order of
  appearance or of `order_seed`, are cut into ten tasks of nearly the same number.
  """
  path = path / 'dataset.txt' if path.is_dir() else path
  called = path.name
  numbered = [(n, text) for n, text in enumerate(lines(path, str(path)), 1) if text.strip()]
  facts: dict[str, list[tuple[RawRow, RawRow]]] = {}
  for first in range(0, len(numbered), 5):
    block = numbered[first : first + 5]
    triple = re.fullmatch(r'\((.+?), *[^,]+, *.+\)', block[0][1].strip())
    if triple is None or len(block) < 5:
      raise UserError(
        f'{called}:{block[0][0]}: not a block of five lines, (concept, relation, object), '
        'question, answer, question, answer: mend or download the file again'
      )
    question, answer, second, again = (re.sub(r'^\s*[QA]\d:', '', text) for _, text in block[1:])
    trained = RawRow(f'{called}:{block[1][0]}', question, answer)
    tested = RawRow(f'{called}:{block[3][0]}', second, again)
    facts.setdefault(triple[1], []).append((trained, tested))
  concepts = list(facts)
  if len(concepts) < CONCEPT_TASKS:
    found = count_of(len(concepts), 'concept')
    raise UserError(f'{path}: {found}: {CONCEPT_TASKS} tasks need as many')
  order = permutation(len(concepts), config.order_seed)
  tasks = []
  for index in range(CONCEPT_TASKS):
    start, stop = (len(order) * i // CONCEPT_TASKS for i in (index, index + 1))
    pairs = [pair for i in order[start:stop] for pair in facts[concepts[i]]]
    train, test = ([pair[i] for pair in pairs] for i in (0, 1))
    tasks.append(RawTask(f'concepts-{start + 1}-{stop}', train, test))
  return tasks


def strings(value: object) -> TypeGuard[list[str]]:
  """Returns whether a value is a list of strings."""
  return isinstance(value, list) and all(isinstance(item, str) for item in value)


def short(where: str) -> str:
  """Returns `folder/file:line` as `file:line`."""
  return where.replace('\\', '/').rsplit('/', 1)[-1]


BENCHMARKS = {
  'clinc150': Benchmark(classed(clinc150)),
  'banking77': Benchmark(classed(banking77)),
  'hwu64': Benchmark(classed(hwu64)),
  'snips': Benchmark(classed(snips)),
  'fewrel': Benchmark(classed(fewrel), RELATION),
  'concept1k': Benchmark(concept1k, QUESTION),
}
