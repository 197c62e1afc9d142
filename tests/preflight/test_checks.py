"""Preflight: what is counted of rows, what is warned of and refused, and what a run takes."""

import collections
import json
import math
import os
import re

import pytest
from support.launchers import QUICKSTART, call
from support.preflight import COLOURS, faulty, more, parts, task, text_of
from support.raw_streams import rows, stream

from jcl.backbones.tokenizers import bpe_tokenizer, word_tokenizer
from jcl.batching.packed_text import PackedText, pack
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.preflight import checks, faults
from jcl.preflight.split_stats import counted
from jcl.streams.build import build
from jcl.streams.raw import RawTask


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
    (CLEAN[0], more(CLEAN[1], test=[(f'second zebra yak w{i}', 'b') for i in range(6)])), {},
    'tokens are unknown to the tokenizer: test 6.9 % (18 of 260), most in second, test (11.2 %)',
  ),
  'no test rows': (
    (more(CLEAN[0], train=[(f'first {c} z', 'c') for c in COLOURS]), CLEAN[1]), {},
    '33.3 % (1 of 3) classes have no test row (c)',
  ),
  'one number': (
    (task('first', '1'), task('second', '1.0')), {},
    'labels 1 and 1.0 are one number and several classes: write it in one way if one is meant',
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


def test_unknown_tokens_are_counted_alike_in_summary_and_warning(monkeypatch):
  """A share of all splits together would differ from those of the warning."""
  tasks, how, _ = WARNED['unknown']
  made = parts(*tasks, monkeypatch=monkeypatch, **how)
  assert 'test 6.9 % (18 of 260)' in checks.warnings(made)[0]
  assert 'targets, unknown test 6.9 %; of ' in checks._totals(made)
  assert 'targets, unknown 0.0 %; of ' in checks._totals(parts(*CLEAN, monkeypatch=monkeypatch))


def test_a_small_share_is_not_called_none():
  assert [faults.share_of(n, 4500) for n in (0, 2, 3, 450)] == [
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
    r"task 'first', train: 6 different texts read the same, 6 of them cut to 20.*max_length",
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
