"""Preflight: what is counted of rows, what is warned of and refused, and what a run takes."""

import collections
import json
import math
import os
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support import model_folder, runs
from support.launchers import QUICKSTART, call
from support.raw_streams import rows, stream

from jcl import learning
from jcl.backbones.tokenizers import add_tokens, bpe_tokenizer, word_tokenizer
from jcl.batching.packed_text import PackedText, pack
from jcl.batching.text_formats import Text, added_tokens
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.methods import Method
from jcl.methods.seq import Seq
from jcl.preflight import checks, cost, footprint
from jcl.preflight.split_stats import counted
from jcl.step import sharding
from jcl.storage.checkpoint import Snapshots
from jcl.storage.encoding import encode
from jcl.streams.build import build
from jcl.streams.raw import RawTask
from jcl.streams.task_order import describe_order
from jcl.training import experiment
from jcl.training.evaluate import Score

ROOM = footprint.Footprint({'total': 100}, 0, {'total': 100}, whole=True)
COLOURS = ('red', 'blue', 'green', 'white', 'black', 'grey')


def task(name, label, count=10, **splits):
  """A task of one class without a fault, its texts of the words of `COLOURS`."""
  words = lambda i: ' '.join(COLOURS[i // 6**k % 6] for k in range(3))
  train = rows(f'{name}-train', *((f'{name} {words(i)}', label) for i in range(count)))
  test = rows(f'{name}-test', *((f'{name} {words(i)}', label) for i in range(100, 110)))
  return RawTask(name, **{'train': train, 'test': test} | splits)


def more(one, **pairs):
  """A task with further rows in some splits."""
  added = {
    split: [*getattr(one, split), *rows(f'{one.name}-{split}-more', *extra)]
    for split, extra in pairs.items()
  }
  return one._replace(**added)


def text_of(made, text_format='plain', max_length=64, tokenizer=None):
  """A text of all words that train, the template's too, as `experiment` makes it."""
  frame = made.template.replace('{x}', ' ').replace('{y}', ' ')
  words = [s for t in made.tasks for e in t.train for s in (e.text, e.answer, frame)]
  tokenizer, special = word_tokenizer(words) if tokenizer is None else tokenizer(words)
  add_tokens(tokenizer, added_tokens(text_format, len(made)))
  text = Text(tokenizer, special, made.template, text_format, max_length)
  for example in made.examples:
    text.rows(example)
  return text


def parts(*tasks, task_id_given=False, steps=0, limit=None, monkeypatch=None, **how):
  """Returns the parts of a run that the doctor looks at."""
  made = build(stream(*tasks), StreamConfig(overlap='keep'))
  text = text_of(made, **how)
  if monkeypatch is not None:
    monkeypatch.setattr(checks, 'device_limit', lambda mesh: limit)
  run = SimpleNamespace(
    stream=made, text=text, task_id_given=task_id_given, score='accuracy',
    config=SimpleNamespace(train=SimpleNamespace(steps=steps)),
    tools=SimpleNamespace(mesh=sharding.make_mesh(1)),
  )  # fmt: skip
  return checks.Checkup(run, tuple(counted(made, text, task_id_given)), ROOM)


def faulty():
  """Two tasks with every fault of rows, some of them in several rows."""
  first = more(
    task('first', 'a'),
    train=[('first red red  RED', 'a'), ('shared words', 'a'), ('First red red red', 'c')],
    test=[('shared words', 'a'), ('zebra yak red', 'a'), ('second red red red', 'a')],
  )
  second = more(
    task('second', 'b', dev=rows('dev', ('second red red red', 'b'), ('fresh ' * 30, 'b'))),
    train=[('shared words', 'b'), ('red ' * 50, 'b')],
    test=[('shared words', 'b'), ('nothing new', 'b'), ('nothing new', 'b')],
  )
  return first, second


def by_hand(made, text, task_id_given):
  """The counts again, from the texts alone, row against row."""
  same = lambda a, b: a.text.lower().split() == b.text.lower().split()
  train = [e for t in made.tasks for e in t.train]
  found = {}
  for t in made.tasks:
    for name in ('train', 'dev', 'test'):
      split = getattr(t, name)
      own = [e for e in split if any(same(e, o) for o in t.train)]
      other = [e for e in split if any(same(e, o) and o.task != t.index for o in train)]
      ids = [text.tokenizer.encode(said, add_special_tokens=False).ids for said in (
        made.template.replace('{x}', e.text).replace('{y}', e.answer) for e in split)]  # fmt: skip
      whole = [len(i) + 1 for i in ids]
      found[t.name, name] = {
        'rows': len(split),
        'tokens': sum(min(n, text.max_length) for n in whole),
        'targets': 2 * len(split),
        'unknown': sum(
          i[: text.max_length].count(text.tokenizer.token_to_id('<unk>')) for i in ids
        ),
        'classes': len({e.label for e in split}),
        'cut': sum(n > text.max_length for n in whole),
        'repeated': sum(any(same(e, o) for o in split[:i]) for i, e in enumerate(split)),
        'leaked': 0 if name == 'train' else len(own),
        'elsewhere': len([e for e in other if name == 'train' or e not in own]),
        'conflicting': sum(
          any(
            same(e, o) and o.answer != e.answer and (not task_id_given or o.task == e.task)
            for o in train
          )
          for e in split
        ),
      }
  return {key: value for key, value in found.items() if value['rows']}


@pytest.mark.parametrize('task_id_given', [False, True])
def test_counts_are_those_taken_row_against_row(task_id_given):
  made = build(stream(*faulty()), StreamConfig(overlap='keep'))
  text = text_of(made, max_length=40)
  splits = list(counted(made, text, task_id_given))
  wanted = by_hand(made, text, task_id_given)
  found = {(s.task, s.name): {k: getattr(s, k) for k in wanted['first', 'train']} for s in splits}
  assert found == wanted
  sums = collections.Counter()
  for values in found.values():
    sums.update(values)
  for fault in ('unknown', 'cut', 'repeated', 'leaked', 'elsewhere'):
    assert sums[fault] > 0
  assert sums['conflicting'] == (3 if task_id_given else 8)


def test_training_rows_of_lamol_count_with_their_generation():
  made = build(stream(*faulty()), StreamConfig(overlap='keep'))
  text = text_of(made, 'lamol')
  for split, examples in zip(
    counted(made, text, False),
    [s for t in made.tasks for s in (t.train, t.dev, t.test) if s],
    strict=True,
  ):
    ids = [len(text.encode(e.text)) for e in examples]
    question = sum(n + 3 for n in ids)  # __ans__, the label, eos
    both = question + sum(n + 4 for n in ids)
    assert split.tokens == (both if split.name == 'train' else question)
    answers = 2 * len(ids)
    generated = sum(n + 3 for n in ids)
    assert split.targets == answers + (generated if split.name == 'train' else 0)


def test_at_the_level_of_bytes_nothing_is_unknown():
  made = build(stream(*faulty()), StreamConfig(overlap='keep'))
  text = text_of(made, tokenizer=lambda words: bpe_tokenizer(words, 300))
  assert text.unknown is None
  assert all(s.unknown == 0 and s.tokens for s in counted(made, text, False))


def test_raw_text_is_counted_a_part_at_a_time(tmp_path, monkeypatch):
  made = build(stream(*faulty()), StreamConfig(overlap='keep'), targets=False)
  tokenizer, special = word_tokenizer([e.text for e in made.tasks[0].train])
  text = PackedText(tmp_path, tokenizer, special, made.template, 8)
  packed = pack(made, text)
  monkeypatch.setattr('jcl.preflight.split_stats.CHUNK', 3)
  splits = list(counted(packed, text, False))
  assert [(s.task, s.name) for s in splits] == [
    ('first', 'train'), ('first', 'test'),
    ('second', 'train'), ('second', 'dev'), ('second', 'test'),
  ]  # fmt: skip
  for split in splits:
    documents = getattr(made.tasks[split.task == 'second'], split.name)
    ids = [i for d in documents for i in [*tokenizer.encode(d.text).ids, special.eos]]
    assert (split.tokens, split.targets) == (len(ids), len(ids))
    assert split.rows == math.ceil(len(ids) / 8)
    assert split.unknown == ids.count(tokenizer.token_to_id('<unk>'))
  assert sum(s.unknown for s in splits) > 0


# Warnings.


LONG = ' '.join(['red'] * 50)
CLEAN = task('first', 'a'), task('second', 'b')
WARNED = {
  'cut': (
    (more(CLEAN[0], train=[(f'{LONG} blue', 'a'), (f'{LONG} green', 'a')]), CLEAN[1]),
    {'max_length': 40},
    'rows lose the end of their input: train 9.1 % (2 of 22), most in first, train (16.7 %)',
  ),
  'overlap': (
    (more(CLEAN[0], test=[('first red red red', 'a')]),
     more(CLEAN[1], test=[('FIRST blue red red', 'b')])),
    {'task_id_given': True},
    'rows stand in a train split too: test 9.1 % (2 of 22), most in first, test (9.1 %)',
  ),
  'conflict': (
    (more(CLEAN[0], train=[('second red red red', 'a')]), CLEAN[1]), {},
    'rows have a text that is trained with another answer: train 9.5 % (2 of 21), most in second',
  ),
  'repeated': (
    (more(CLEAN[0], train=[('first red red red', 'a')] * 3), CLEAN[1]), {},
    'rows repeat a text of their split: train 13.0 % (3 of 23), most in first, train (23.1 %)',
  ),
  'unknown': (
    (CLEAN[0], more(CLEAN[1], test=[('second zebra yak red', 'b')])), {},
    'tokens are unknown to the tokenizer: test 1.0 % (2 of 210), most in second, test (1.8 %)',
  ),
  'no test rows': (
    (more(CLEAN[0], train=[(f'first {c} z', 'c') for c in COLOURS]), CLEAN[1]), {},
    '33.3 % (1 of 3) classes have no test row (c)',
  ),
  'few rows': (
    (more(CLEAN[0], train=[('first so few', 'c')] * 1, test=[('first so red', 'c')]), CLEAN[1]), {},
    '33.3 % (1 of 3) classes have fewer than 5 training rows (least: c, 1)',
  ),
  'uneven': (
    (task('first', 'a', count=55), CLEAN[1]), {},
    'first has 5.5 times the training rows of second (55 and 10): it trains for as many more steps',
  ),
  'uneven with steps': (
    (CLEAN[0], task('second', 'b', count=50)), {'steps': 7},
    'second has 5.0 times the training rows of first (50 and 10): both train for 7 steps',
  ),
}  # fmt: skip


def test_a_stream_without_a_fault_is_not_warned_of(monkeypatch):
  assert checks.warnings(parts(*CLEAN, monkeypatch=monkeypatch)) == []
  almost = task('first', 'a', count=49), CLEAN[1]
  assert checks.warnings(parts(*almost, monkeypatch=monkeypatch)) == []


@pytest.mark.parametrize('case', WARNED)
def test_a_fault_is_one_line_with_its_figures(case, monkeypatch):
  tasks, how, line = WARNED[case]
  (found,) = checks.warnings(parts(*tasks, monkeypatch=monkeypatch, **how))
  assert line in found
  assert '\n' not in found


def test_a_small_share_is_not_called_none():
  assert [checks._share(n, 4500) for n in (0, 2, 3, 450)] == [
    '0.0 % (0 of 4,500)', '<0.1 % (2 of 4,500)', '0.1 % (3 of 4,500)', '10.0 % (450 of 4,500)',
  ]  # fmt: skip


def test_the_largest_share_comes_first(monkeypatch):
  made = parts(*faulty(), max_length=40, monkeypatch=monkeypatch)
  found = checks.warnings(made)
  shares = [float(re.findall(r'([\d.]+) %', line)[-1]) for line in found]
  assert len(found) == 7
  assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
  ('free', 'limit', 'lines'),
  [
    (600, None, []),
    (599, None, ['599 B are free for the workdir, and its snapshots take up to 300 B']),
    (600, 125, []),
    (600, 124, ['100 B of the 124 B of each device are taken before the first batch']),
  ],
)
def test_little_room_is_said(free, limit, lines, tmp_path, monkeypatch):
  monkeypatch.setattr(checks, 'free_space', lambda folder: free)
  found = checks.warnings(parts(*CLEAN, monkeypatch=monkeypatch, limit=limit), tmp_path)
  assert len(found) == len(lines)
  assert all(line in said for line, said in zip(lines, found, strict=True))


def test_room_is_that_of_the_disk_that_the_workdir_would_be_on(tmp_path):
  status = os.statvfs(tmp_path)
  found = checks.free_space(tmp_path / 'not' / 'there' / 'yet')
  assert abs(found - status.f_bavail * status.f_frsize) < 0.05 * found


# What is refused.


REFUSED = {
  'unknown': (
    (CLEAN[0], CLEAN[1]._replace(test=rows('t', *[(' '.join(['zz'] * 30), 'b')] * 2))), {},
    r"task 'second', test: 83\.3 % \(60 of 72\) tokens are unknown.*backbone\.tokenizer=bpe",
  ),
  'all read the same': (
    (CLEAN[0]._replace(train=rows('t', *((f'{LONG} {c}', 'a') for c in COLOURS))), CLEAN[1]),
    {'max_length': 20},
    r"task 'first', train: 6 different texts read the same, 6 rows are cut to 20.*max_length",
  ),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_a_stream_that_cannot_be_learned_is_refused(case):
  tasks, how, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as error:
    checks.refuse(parts(*tasks, **how))
  assert '\n' not in str(error.value)


def test_half_unknown_and_one_text_alone_are_let_be():
  words = ' '.join(['red'] * 30), ' '.join(['zz'] * 30)
  half = CLEAN[1]._replace(test=rows('t', *((w, 'b') for w in words)))
  alone = RawTask('one', rows('one', ('red', 'a')), rows('test', ('blue', 'a')))
  checks.refuse(parts(CLEAN[0], half))
  checks.refuse(parts(alone, CLEAN[1]))


def test_no_room_is_refused_with_both_figures(tmp_path, monkeypatch):
  made = parts(*CLEAN, monkeypatch=monkeypatch, limit=99)
  monkeypatch.setattr(checks, 'free_space', lambda folder: 99)
  checks.refuse(made)
  with pytest.raises(UserError, match='99 B are free, and a snapshot takes up to 100 B'):
    checks.refuse(made, tmp_path)
  monkeypatch.setattr(checks, 'free_space', lambda folder: 100)
  with pytest.raises(UserError, match=r'take 100 B on each device, which has 99 B.*train\.fsdp'):
    checks.refuse(made, tmp_path)
  monkeypatch.setattr(checks, 'device_limit', lambda mesh: 100)
  checks.refuse(made, tmp_path)


def test_the_launcher_refuses_before_anything_is_written(tmp_path):
  lines = lambda *texts: ''.join(json.dumps({'text': t, 'label': 'a'}) + '\n' for t in texts)
  task = {'name': 'one', 'train': 'train.jsonl', 'test': 'test.jsonl'}
  (tmp_path / 'manifest.json').write_text(json.dumps({'label': 'label', 'tasks': [task]}))
  (tmp_path / 'train.jsonl').write_text(lines('red', 'blue'))
  (tmp_path / 'test.jsonl').write_text(lines(*(f'{i} ' * 40 for i in range(4))))
  done = call(
    'train', f'{QUICKSTART}:seq', f'--workdir={tmp_path / "run"}', '--config.stream.name=files',
    f'--config.stream.path={tmp_path / "manifest.json"}', '--config.evaluate.every_epochs=0',
  )  # fmt: skip
  assert done.returncode == 2, done.stderr
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: task 'one', test: ")
  assert 'unknown to the tokenizer' in line
  assert not (tmp_path / 'run').exists()


# What a run says and writes.


def test_a_run_says_little_and_its_record_has_all(tmp_path, monkeypatch):
  """Warnings stand once in results.json, whatever killed the run."""
  monkeypatch.setattr(checks, '_said', set())
  made = runs.config(
    'seq', train={'epochs': 1}, stream={'max_tasks': 2, 'max_test_per_task': 3, 'max_length': 24}
  )
  wanted = checks.warnings(checks.checkup(experiment.assemble(made)), tmp_path)
  assert len(wanted) == 1

  class Killer:
    def on_task(self, results):
      raise runs.Killed

  with pytest.raises(runs.Killed):
    learning.run(made, tmp_path / 'run', quiet=True, callbacks=[Killer()])
  results = learning.run(made, tmp_path / 'run', quiet=True).results
  assert results['resumes']
  assert results['warnings'] == wanted
  assert json.loads((tmp_path / 'run' / 'results.json').read_text())['warnings'] == wanted


def test_a_run_prints_its_opening_once_and_before_all_else(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(checks, '_said', set())
  config = runs.config('seq', stream={'max_tasks': 2, 'max_test_per_task': 3})
  made = experiment.assemble(config)

  class Killer:
    def on_evaluation(self, row):
      raise runs.Killed

  with pytest.raises(runs.Killed):
    learning.run(config, tmp_path / 'run', parts=made, callbacks=[Killer()])
  said = capsys.readouterr().out
  monkeypatch.setattr(checks, '_said', set())
  *lines, warning = checks.opening(checks.checkup(made), tmp_path)
  assert warning.startswith('warning: 25.0 % (2 of 8) classes have no test row')
  printed = said.splitlines()
  assert printed[:2] == lines[:2]
  assert printed[3:5] == lines[3:]  # the third has the free space, which moves
  assert printed[5] == warning


def test_a_second_run_of_a_command_does_not_say_it_all_again(tmp_path, monkeypatch):
  monkeypatch.setattr(checks, '_said', set())
  monkeypatch.setattr(checks, 'SHOWN', 2)
  made = experiment.assemble(runs.config('seq', stream={'max_test_per_task': 3, 'max_tasks': 2}))
  found = ['one', 'two', 'three']
  monkeypatch.setattr(checks, 'warnings', lambda parts, workdir: found)
  lines = checks.opening(checks.checkup(made), tmp_path)
  said = [line for line in lines if line.startswith('warning')]
  assert said == ['warning: one', 'warning: two', 'warning: 1 more are in results.json']
  assert made.tools.reports['warnings'] == found
  found = ['one', 'two', 'three', 'four']
  said = [
    line for line in checks.opening(checks.checkup(made), tmp_path) if line.startswith('warning')
  ]
  assert said == ['warning: four', 'warning: 3 as in an earlier run of this command']


def test_the_opening_has_the_figures_of_the_stream(tmp_path, monkeypatch):
  monkeypatch.setattr(checks, '_said', set())
  made = experiment.assemble(runs.config('seq'))
  first, second, third, order, rate = checks.opening(checks.checkup(made), tmp_path)
  tokens = sum(len(made.text.rows(e)[0].tokens) for e in made.stream.examples)
  assert first.startswith(
    'synthetic: 3 tasks, 12 classes, 120 training, 48 dev, 48 test rows; 0.01'
  )
  assert second.startswith(f'{tokens:,} tokens, ')
  assert 'of 216 rows 0 are cut, 0 repeat a text, 0 stand in train too, 0 conflict' in second
  size = checks.checkup(made).footprint
  assert (
    f'{footprint.short(size.disk, "B")} ({footprint.short(size.snapshot["total"], "B")}' in third
  )
  names = ', '.join(task.name for task in made.stream.tasks)
  assert order == f'order of tasks: {names} (tasks shuffled by stream.order_seed=0)'
  assert rate.startswith('learning rate: ')


@pytest.mark.parametrize(
  ('method', 'backbone', 'train', 'wanted'),
  [
    ('seq', {}, {'learning_rate': None}, '0.001 (the default from scratch)'),
    ('seq', {}, {'learning_rate': 1e-3}, '0.001 (as set)'),
    ('seq', {}, {'learning_rate': 1e-4}, '0.0001 (as set; the default from scratch is 0.001)'),
    ('seq', {'head': 'linear'}, {'learning_rate': None},
     '0.001 (the default from scratch), 0.001 of the head'),
    ('lora', {}, {'learning_rate': None}, '0.0002 of adapters'),
    ('seq', {'path': True}, {'learning_rate': None}, '1e-05 (the default of a pretrained model)'),
    ('seq', {'path': True}, {'learning_rate': 0.0},
     '0 (as set; the default of a pretrained model is 1e-05)'),
  ],
)  # fmt: skip
def test_the_opening_says_the_rates_of_what_trains(method, backbone, train, wanted, tmp_path):
  if 'path' in backbone:
    path = model_folder.write(tmp_path / 'm', model_folder.golden('llama'))
    backbone = {'path': str(path)}
  train = {'adapter_learning_rate': 2e-4, 'head_learning_rate': 1e-3, **train}
  made = experiment.assemble(runs.config(method, backbone=backbone, train=train))
  assert checks.choices(made)[1] == f'learning rate: {wanted}'


def test_orders_in_words():
  names = ['q1', 'q2']
  assert describe_order(names, 'files', -1) == 'q1, q2 (as given, not shuffled)'
  assert describe_order(names, 'rows', 3) == 'q1, q2 (tasks shuffled by stream.order_seed=3)'
  assert describe_order(names, 'clinc150', 3) == 'q1, q2 (classes shuffled by stream.order_seed=3)'
  assert 'as a.b:read orders them for stream.order_seed=3' in describe_order(names, 'a.b:read', 3)
  assert describe_order(['x'] * 20, 'files', -1).startswith('x, ' * 12 + '… (20 in all)')


# Bytes.


def held(workdir):
  """Bytes of the newest snapshot's arrays, by field, and those of its files."""
  snapshots = Snapshots(workdir, write=False)
  content = snapshots.latest()
  folder = workdir / 'checkpoints' / str(snapshots.number)
  snapshots.close()
  sizes = {}
  for field in ('params', 'optimizer', 'memory'):
    arrays: dict[str, np.ndarray] = {}
    encode(content[field], arrays)
    sizes[field] = sum(x.nbytes for x in arrays.values())
  return sizes, sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize('method', ['seq', 'replay', 'ewc', 'derpp', 'lamol'])
def test_a_snapshot_takes_what_is_said(method, tmp_path):
  """Every array of the model, states of a teacher within 3 %; on the disk up to 15 % less."""
  made = runs.config(
    method, train={'epochs': 1, 'batch_size': 8},
    backbone={'width': 96, 'layers': 2, 'feed_forward': 192},
    stream={'max_tasks': 2, 'max_train_per_task': 24, 'max_test_per_task': 4},
  )  # fmt: skip
  if method == 'derpp':
    made.method.buffer_size = 24
  parts = experiment.assemble(made)
  said = checks.checkup(parts).footprint
  assert said.whole
  loop = runs.Loop(parts, tmp_path, quiet=True)
  loop.score = lambda params, task, examples, tools: Score([True] * len(examples), 0.0, [])
  loop.run()
  sizes, disk = held(tmp_path)
  snapshot = said.snapshot
  assert sizes['params'] == snapshot['parameters']
  assert sizes['optimizer'] == snapshot['optimizer']
  assert 0.97 * snapshot['memory'] <= sizes['memory'] <= 1.03 * snapshot['memory']
  settled = snapshot['total'] - snapshot['under_way']
  assert 0.85 * settled <= disk <= settled


def test_what_grows_with_the_tasks_is_counted_at_its_end():
  """A model a task, all of whose snapshots are kept, and the best parameters inside a task."""
  made = runs.config('single', checkpoint={'keep_tasks': True}, train={'keep_best': True})
  said = checks.checkup(experiment.assemble(made)).footprint
  size = said.snapshot['parameters']
  assert said.snapshot == {
    'parameters': size, 'optimizer': 2 * size + 4, 'memory': 4 * size, 'under_way': size,
    'total': 8 * size + 4,
  }  # fmt: skip
  assert said.kept == sum(3 * size + 4 + (1 + models) * size for models in (1, 2, 3))
  assert said.disk == 3 * said.snapshot['total'] + said.kept
  assert said.device['memory'] == 3 * size
  carried = runs.config('ewc', train={'optimizer_between_tasks': 'carried'})
  said = checks.checkup(experiment.assemble(carried)).footprint
  assert said.snapshot['under_way'] == size  # the Fisher of the task
  assert said.snapshot['memory'] == said.device['teacher'] == 2 * size + 4
  adam = 3 * size + 4  # two moments and when they began
  assert said.device['start_of_task'] == size + 2 * size + 4 + adam


@pytest.mark.parametrize('method', ['seq', 'reptile', 'ewc', 'derpp', 'lora', 'expand'])
def test_the_cheap_estimate_is_that_of_the_plan(method):
  """All but the activations, which are compiled for, in the first task."""
  made = runs.config(method, stream={'max_tasks': 1})
  now = cost.outline(made, sharding.make_mesh(1))
  said, compiled = checks.checkup(now.parts).footprint.device, cost.memory(now).values['per_device']
  for part in ('parameters', 'gradients', 'optimizer', 'teacher', 'start_of_task'):
    assert said[part] == compiled[part]


def test_logits_that_are_stored_are_counted_with_the_classes():
  made = runs.config('derpp', backbone={'head': 'linear'})
  made.method.targets, made.method.buffer_size = 'stored', 30
  parts = experiment.assemble(made)
  assert (
    checks.checkup(parts).footprint.snapshot['memory'] == 30 * 12 * 4 * 2
  )  # and which are covered


@pytest.mark.parametrize('hook', ['init', 'after_task'])
def test_a_method_that_looks_at_numbers_is_counted_as_far_as_it_goes(hook, tmp_path, monkeypatch):
  look = lambda params: np.asarray(jax.tree.leaves(params)[0])
  hooks = {
    'init': lambda params, stream, tools: {'teacher': {}, 'seen': look(params)},
    'after_task': lambda memory, params, task, tools: (memory | {'seen': look(params)}, params),
  }
  monkeypatch.setattr(Seq, 'build', lambda *_: Method(**{hook: hooks[hook]}))
  made = experiment.assemble(runs.config('seq'))
  said = checks.checkup(made).footprint
  assert not said.whole
  size = said.snapshot['parameters']
  assert said.snapshot['total'] == size + 2 * size + 4
  assert said.device['total'] == 5 * size + 4
  assert 'snapshots take at least' in checks.opening(checks.checkup(made), tmp_path)[2]
