"""Digests of rows: what they cover, and how two splits differ by them."""

import dataclasses
import subprocess
import sys

import pytest

from jcl.streams.digests import BYTES, difference, row_digest, row_digests
from jcl.streams.stream import Example

ROW = Example(3, 'a text\ud800', 'an answer', 1, 0, 'file.csv:4')


def test_a_digest_covers_what_a_run_reads():
  same = dataclasses.replace(ROW, number=9, name='other.csv:7', task=2, label=5)
  assert row_digest(same, 'label') == row_digest(ROW, 'label')
  others = [
    row_digest(dataclasses.replace(ROW, text='a text'), 'label'),
    row_digest(dataclasses.replace(ROW, answer=''), 'label'),
    row_digest(dataclasses.replace(ROW, tokens=(1,)), 'label'),
    row_digest(ROW, 'another'), row_digest(ROW, None),
    row_digest(dataclasses.replace(ROW, text=ROW.answer, answer=ROW.text), 'label'),
  ]  # fmt: skip
  assert len({row_digest(ROW, 'label'), *others}) == 1 + len(others)


# Each field of an example, with another value than in ROW and whether a run reads it.
FIELDS = {
  'number': (9, False), 'text': ('more', True), 'answer': ('more', True), 'task': (2, False),
  'label': (5, False), 'name': ('x', False), 'tokens': ((1,), True),
  'prompt_size': (1, True),
  'messages': ('[[], 0]', True), 'place': ('x', False),
}  # fmt: skip


@pytest.mark.parametrize('name', [field.name for field in dataclasses.fields(Example)])
def test_a_digest_covers_each_field_that_a_run_reads_and_no_other(name):
  """The class of `label` counts by its text, which `row_digest` takes beside the example."""
  value, read = FIELDS[name]
  other = dataclasses.replace(ROW, **{name: value})
  assert (row_digest(other, 'label') != row_digest(ROW, 'label')) == read


def test_another_process_gives_the_same():
  code = (
    'from jcl.streams.digests import row_digest as d; from jcl.streams.stream import Example as E;'
    'print(d(E(0, "天 🙂", "é", 0), "l").hex())'
  )
  own = row_digest(Example(0, '天 🙂', 'é', 0), 'l').hex()
  for seed in '12':
    env = {'PYTHONHASHSEED': seed, 'PYTHONPATH': ':'.join(sys.path), 'PYTHONUTF8': '1'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == own, done.stderr


def digests(*texts: str) -> bytes:
  return row_digests([Example(i, text, '', 0) for i, text in enumerate(texts)], ())


@pytest.mark.parametrize(
  ('before', 'now', 'words', 'first'),
  [
    ('abcd', 'abxd', '1 row changed', 2),
    ('abcd', 'abcdxy', '2 rows added', 4),
    ('abcd', 'acd', '1 row removed', 1),
    ('abcd', 'd', '3 rows removed', 0),
    ('abcd', 'xbcde', '1 row changed, 1 row added', 0),
    ('abcd', 'abdc', '2 rows moved', 2),
    ('aab', 'ab', '1 row removed', 1),
    ('', 'a', '1 row added', 0),
  ],
)
def test_differences(before, now, words, first):
  found = difference(digests(*before), digests(*now))
  assert (str(found), found.first) == (words, first)


def test_equal_rows():
  assert difference(digests('a', 'b'), digests('a', 'b')) is None
  assert len(digests('a', 'b')) == 2 * BYTES
