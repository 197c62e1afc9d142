"""Labels of a comparison: what truly differs, in few words; and which runs are held together."""

import pytest
from support import reported

from jcl.reports import comparison, report
from jcl.reports import labels as naming
from jcl.reports.tables import comparison_notes


def of(method='seq', seed=0, path='', **settings):
  """A run with a model and settings by dotted name."""
  one = reported.run(method, seed)
  config = {'backbone': {'path': path, 'width': 64}, 'train': {'seed': seed}, 'method': {},
            'stream': {'name': 'synthetic', 'path': '', 'order_seed': seed}}  # fmt: skip
  for name, value in settings.items():
    group, _, field = name.partition('__')
    config[group][field] = value
  return {**one, 'config': config}


def labels(*runs):
  return [group.label for group in comparison.group_runs(runs)]


def test_values_that_are_equal_are_no_difference():
  """A run in memory has tuples and whole numbers where a file has lists and 100.0."""
  one = {'train__trainable': ('.*',), 'train__betas': ((0.9, 1),), 'method__lambda_ewc': 100}
  other = {'train__trainable': ['.*'], 'train__betas': [[0.9, 1.0]], 'method__lambda_ewc': 100.0}
  assert labels(of('ewc', 0, **one), of('ewc', 1, **other)) == ['ewc']
  other['method__lambda_ewc'] = 0.001
  assert labels(of('ewc', **one), of('ewc', **other)) == [
    'ewc (lambda_ewc 100)', 'ewc (lambda_ewc 0.001)'
  ]  # fmt: skip


def test_values_from_files_and_from_memory_are_one():
  assert naming.plain([1.0, [2, 'a'], {'b': 3.0}]) == (1, (2, 'a'), (('b', 3),))
  assert naming.plain(0.5) == 0.5
  assert naming.plain(True) is True


def test_a_model_is_called_by_its_name_and_none_is_from_scratch():
  runs = [of('replay'), of('closed_form', path='/opt/models/minilm-l6/'),
          of(path='models/smollm2-135m.gguf', train__learning_rate=1e-5), of(),
          of('lora', path='HuggingFaceTB/SmolLM2-135M')]  # fmt: skip
  assert labels(*runs) == [
    'replay (from scratch)', 'closed_form (minilm-l6)', 'seq (smollm2-135m)', 'seq (from scratch)',
    'lora (SmolLM2-135M)',
  ]  # fmt: skip
  assert labels(of(path='a/model'), of(path='b/model')) == ['seq (a/model)', 'seq (b/model)']
  assert labels(of(path='a/model'), of('ewc', path='a/model')) == ['seq', 'ewc']
  assert labels(of(), of(backbone__width=128)) == ['seq (width 64)', 'seq (width 128)']


def test_a_label_names_settings_of_the_method_first_and_no_place_of_files():
  runs = [of('lora', stream__max_train=1, train__epochs=2, method__rank=rank, stream__path=path)
          for rank, path in ((4, '/a'), (8, '/b'))]  # fmt: skip
  assert labels(*runs) == ['lora (rank 4)', 'lora (rank 8)']
  runs[1]['config']['stream']['max_train'] = 9
  assert labels(*runs) == ['lora (rank 4, …)', 'lora (rank 8, …)']
  assert labels(of(train__rules=()), of(train__rules=('a', 'b'))) == [
    'seq (rules none)', 'seq (rules a b)'
  ]  # fmt: skip
  assert labels(of(stream__name='files'), of(stream__name='rows')) == [
    'seq (stream.name files)', 'seq (stream.name rows)'
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('other', 'words'),
  [
    (of('ewc', path='models/minilm-l6'), 'the models differ'),
    (of('ewc', backbone__width=128), 'the models differ'),
    (of('ewc', stream__max_train=5), 'streams or scenarios differ in stream.max_train: compare'),
    (
      of('ewc', stream__max_train=5, stream__name='rows', stream__path='/b', train__epochs=9),
      'streams or scenarios differ in stream.name, stream.max_train: compare',
    ),
    (
      {**of('ewc'), 'scenario': 'til'},
      'streams or scenarios differ in scenario: compare',
    ),
    (of('ewc', train__epochs=9, stream__path='/elsewhere', backbone__dtype='bfloat16'), ''),
  ],
)
def test_a_note_says_that_runs_are_not_under_one_condition(other, words):
  notes = comparison_notes(comparison.group_runs([of(), other]), ('average',))
  assert [line for line in notes if 'differ' in line] == (
    [line for line in notes if line.startswith(words)] if words else []
  )
  assert not words or any(line.startswith(words) for line in notes)


LONG = 'acme.a_rather_long_package.methods:AnEvenLongerNameOfAMethodThatNobodyWouldType'
CASES = {
  'the quickstart': [reported.run('seq'), reported.run(), reported.run('joint')],
  'seeds': [reported.run(m, s) for m in ('seq', 'lamol', 'joint') for s in range(3)],
  'seeds that differ': [
    reported.run(m, s, matrix=[[0.0] * 3, [0.9] * 3, [0.5 + 0.2 * s] * 3, [0.1 + 0.3 * s] * 3])
    for m in ('seq', 'lamol', 'joint') for s in range(3)
  ],
  'long labels': [
    of('ewc', path=f'models/an-instruct-model-of-{n}-billion-parameters', method__lambda_ewc=n)
    for n in range(3)
  ] + [of(LONG), of('銀行銀行銀行銀行銀行銀行銀行銀行銀行')],
  'raw text': [reported.text_run(seed=s) for s in range(3)],
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_the_table_fits_80_columns_and_says_what_it_leaves_out(case):
  table = report.comparison_table(CASES[case])
  for line in table.splitlines():
    assert sum(2 if c > '\u2e7f' else 1 for c in line) <= 80, line
  whole = ''.join(table.split())
  for group in comparison.group_runs(CASES[case]):
    letters = ''.join(group.label.split())
    assert len(group.label) > 26 or letters in whole  # a longer one stands in several lines
  assert 'A_T' in table
  assert 'forgetting' in table
  assert ('not shown in 80 columns' in table) == ('BWT' not in table.split('not shown')[0])


def test_lines_of_a_label_end_after_a_setting():
  runs = [of(path=p, train__epochs=e) for p, e in (('', 1), ('', 2), ('b', 1))]
  lines = report.comparison_table(runs).splitlines()
  starts = [line[:12].rstrip() for line in lines]
  assert starts[starts.index('method') :][1:6] == [
    'seq (from sc', ' epochs 1)', 'seq (from sc', ' epochs 2)', 'seq (b)'
  ]  # fmt: skip
