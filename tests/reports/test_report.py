"""Tables to the letter, pictures to the byte, a page that nothing can break out of."""

import errno
import json
import os
import subprocess
import sys

import pytest
from support import ROOT

from jcl.errors import UserError
from jcl.reports import (
  comparison,
  comparison_plot,
  formatting,
  heat_map,
  plots,
  report,
  tables,
)

NAMES = ('bank', 'travel', 'music')
FORGETS = [
  [0.0, 0.1, 0.0],
  [0.9, 0.1, None],
  [0.6, 0.8, 0.2],
  [0.3, 0.4, 1.0],
]
KEEPS = [
  [0.0, 0.1, 0.0],
  [0.9, 0.1, None],
  [0.9, 1.0, 0.0],
  [0.9, 0.95, 0.955],
]
JOINT = [[0.0, 0.1, 0.0], [None] * 3, [None] * 3, [0.9, 1.0, 0.95]]


def run(method, matrix, seed=0, **more):
  names = list(NAMES[: len(matrix[0])])
  return {
    'jcl': '0.1.0', 'method': method, 'stream': 'synthetic', 'scenario': 'cil', 'seed': seed,
    'tasks': names, 'score': 'accuracy', 'matrix': matrix, 'finished': True, **more,
  }  # fmt: skip


def full(method='lamol', matrix=KEEPS, seed=0, **more):
  pseudo = {
    'before': 'travel', 'task': 'bank', 'asked': 10, 'drawn': 10, 'kept': 8, 'distinct': 6,
    'verbatim': 1, 'valid_label': 8, 'samples': [['my <b>balance</b> & more', 'balance']],
  }  # fmt: skip
  return run(
    method, matrix, seed,
    sizes=[10, 10, 20], pseudo=[pseudo, {**pseudo, 'task': None, 'samples': []}],
    invalid=[[None] * 3, [0.5, None, None], [0.0, 0.0, None], [0.0, 0.1, 0.2]],
    seconds={'train': 12.34, 'generate': 1.5, 'evaluate': 0.0},
    tokens={'train': 12345, 'generate': 99}, cost={'models': 1},
    negative_flips={'count': 1, 'of': 40, 'examples': ['test.jsonl:7']},
    resumes=[{'phase': 'train', 'task': 'music', 'step': 3}],
    refused_steps=[{'task': 'music', 'count': 7}], params_sha256='ab12',
    config={'method': {'gamma': 0.2}, 'train': {'seed': seed, 'epochs': 5}}, **more,
  )  # fmt: skip


def test_matrix_table():
  assert report.matrix_table(run('seq', FORGETS, sizes=[10, 20, 70])) == (
    'seq on synthetic (cil), seed 0: accuracy in %\n'
    '                 bank  travel  music\n'
    'before training   0.0    10.0    0.0\n'
    'after bank       90.0    10.0      ·\n'
    'after travel     60.0    80.0   20.0\n'
    'after music      30.0    40.0  100.0\n'
    'A_T 56.7, Ā 72.2, A_T by examples 81.0, forgetting 50.0, forgetting (first)\n'
    '50.0, forgetting rate % 58.3, BWT -50.0, FWT 10.0'
  )


def test_matrix_table_of_a_run_under_way_and_of_training_questions():
  table = report.matrix_table(run('seq', FORGETS[:2], matrix_train=FORGETS[:1]))
  assert table.splitlines()[:6] == [
    'seq on synthetic (cil), seed 0: accuracy in %, test',
    '                 bank  travel  music',
    'before training   0.0    10.0    0.0',
    'after bank       90.0    10.0      ·',
    'after travel        ·       ·      ·',
    'after music         ·       ·      ·',
  ]
  assert 'seed 0: accuracy in %, training questions\n' in table


def test_matrix_table_of_log_perplexity():
  matrix = [[3.0, 3.5], [1.25, 3.5], [1.5, 1.0]]
  lines = report.matrix_table(run('seq', matrix, score='log_perplexity')).splitlines()
  assert lines[0] == 'seq on synthetic (cil), seed 0: log-perplexity in nats per target'
  assert lines[4] == 'after travel     1.500   1.000'
  assert lines[5].startswith('A_T 1.250, Ā 1.250, forgetting 0.250,')


def test_wide_characters_take_two_columns():
  assert report.align_columns([['銀行', '1'], ['bank', '22']]) == '銀行   1\nbank  22'


def test_comparison_table():
  seconds = [{'seconds': {'train': s}} for s in (10.0, 14.0)]
  runs = [
    run('seq', FORGETS, 0, **seconds[0]),
    run('seq', [*FORGETS[:3], [0.3, 0.4, 0.7]], 1, **seconds[1]),
    full(),
    run('joint', JOINT, cost={'models': 3}),
  ]
  # two seeds a and b: (a + b) / 2 ± 12.706 |a − b| / 2; A_T .5667 and .4667, Ā .7222 and .6889
  assert report.comparison_table(runs) == (
    '                                                           worst\n'
    '                                                            just  train  invalid\n'
    'method  seeds          A_T            Ā  forgetting      learned      s        %\n'
    'seq         2  51.7 ± 63.5  70.6 ± 21.2  50.0 ± 0.0  75.0 ± 63.5   12.0        ·\n'
    'lamol       1         93.5         92.8         2.5         90.0   12.3     10.0\n'
    'joint       1         95.0            ·           ·            ·      ·        ·\n'
    'accuracy in %; mean ± 95 % interval over seeds\n'
    'A_T: accuracy over all tasks at the end, Ā: its mean over time; seq: lower\n'
    'bound, joint: upper bound\n'
    'train s: steps alone; compilation and other work are counted apart\n'
    'joint keeps 3 models\n'
    'not shown in 80 columns, but on the page: BWT, generate s, pseudo kept %,\n'
    'distinct %'
  )


def test_settings_tell_runs_of_one_method_apart_and_seeds_do_not():
  runs = [full(seed=0), full(seed=1), full(seed=0)]
  runs[2]['config'] = {'method': {'gamma': 0.5}, 'train': {'seed': 0, 'epochs': 5}}
  lines = report.comparison_table(runs).splitlines()
  assert lines[3].startswith('lamol (gamma 0.2)      2 ')
  assert lines[4].startswith('lamol (gamma 0.5)      1 ')
  lines = report.comparison_table([full(), {**full(), 'scenario': 'til'}]).splitlines()
  assert [line.split('  ')[0] for line in lines[3:5]] == [
    'lamol, synthetic cil', 'lamol, synthetic til'
  ]  # fmt: skip


def test_runs_of_different_streams_are_refused_with_the_difference():
  seq = lambda **more: run('seq', FORGETS, sizes=[10, 10, 20], **more)
  refused = lambda other, words: pytest.raises(
    UserError, match=f'lamol with seed 0 and seq.*{words}'
  )
  with refused(seq(), 'synthetic and clinc150'):
    report.comparison_table([full(), {**seq(), 'stream': 'clinc150'}])
  with refused(seq(), "3 and 3 tasks, 'bank' in one alone, 'home' in one alone"):
    report.comparison_table([full(), {**seq(), 'tasks': ['home', *NAMES[1:]]}])
  with refused(seq(), "task 'music' has 20 test examples in one and 21 in the other"):
    report.comparison_table([full(), {**seq(config={'train': {'seed': 0}}), 'sizes': [10, 10, 21]}])
  drawn = {'stream': {'order_seed': 1}, 'train': {'seed': 1}}  # another seed has other tasks
  report.comparison_table([full(), {**seq(seed=1, config=drawn), 'tasks': ['home', *NAMES[1:]]}])


def test_labels_of_groups_are_all_different():
  """A setting that tells no further groups apart is not named; equal labels are counted."""
  runs = [full() for _ in range(4)]
  for i, one in enumerate(runs):
    one['config'] = {'a': i % 2, 'b': 0, 'c': i // 2, 'd': i}
  labels = [group.label for group in comparison.group_runs(runs)]
  assert labels == ['lamol (a 0, c 0, …)', 'lamol (a 1, c 0, …)', 'lamol (a 0, c 1, …)',
                    'lamol (a 1, c 1, …)']  # fmt: skip
  for i, one in enumerate(runs):
    one['config'] = {'a': 0, 'b': 0, 'c': 0, 'd': 0}
    one['config'] |= {'a': (1,), 'b': (2,)} if i else {}
    one['config']['d'] = i
  labels = [group.label for group in comparison.group_runs(runs)]
  assert labels == ['lamol (a 0, d 0, …)', *(f'lamol (a 1, d {i}, …)' for i in (1, 2, 3))]


DAMPED, OTHER = 'acme.methods:Damped', 'other:Damped'


def test_a_method_of_another_package_has_its_short_name_where_that_is_clear():
  one = full(DAMPED)
  assert report.matrix_table(one).startswith('damped on synthetic')
  assert comparison.group_runs([one, full('ewc+' + DAMPED)])[0].label == 'damped'
  assert comparison.group_runs([one, full('ewc+' + DAMPED)])[1].label == 'ewc+damped'
  labels = [group.label for group in comparison.group_runs([one, full(OTHER), full('seq')])]
  assert labels == [DAMPED, OTHER, 'seq']
  assert heat_map.heat_map_png(one) == heat_map.heat_map_png(full('damped'))
  assert heat_map.heat_map_png(one) != heat_map.heat_map_png(full('dampet'))


@pytest.mark.parametrize('name', ['lamol', 'method 0', 'a: b', 'x:', '<a:b>', 'ewc+l2'])
def test_any_other_name_of_a_method_stays(name):
  assert formatting.short_method_name(name) == name


def test_runs_under_way_do_not_hide_finished_ones():
  runs = [run('seq', FORGETS, 0), run('seq', FORGETS[:2], 1, finished=False)]
  table = report.comparison_table(runs)
  assert table.splitlines()[3].split()[:3] == ['seq', '1', '56.7']
  assert 'seq is left out, not finished: seed 1' in table
  assert 'seq is not finished: seed 1' in report.comparison_table(runs[1:])


def test_what_cannot_be_compared_is_refused():
  with pytest.raises(UserError, match='there are no runs'):
    report.comparison_table([])
  with pytest.raises(UserError, match=r'accuracy \(lamol with seed 0\) and log_perplexity \(seq'):
    report.comparison_table([full(), run('seq', FORGETS, score='log_perplexity')])
  with pytest.raises(UserError, match='lamol with seed 0 is given twice'):
    report.comparison_table([full(), full()])
  with pytest.raises(UserError, match='row 1 of the matrix has 2 cells'):
    report.matrix_table(run('seq', [[0.1] * 3, [0.1] * 2, [0.1] * 3, [0.1] * 3]))


def test_pictures_are_the_same_bytes_every_time(tmp_path):
  paths = [tmp_path / f'{i}.png' for i in range(4)]
  runs = [run('seq', FORGETS, 0), run('seq', KEEPS, 1), full(), run('joint', JOINT)]
  for path in paths[:2]:
    report.heat_map(runs[0], path)
  for path in paths[2:]:
    report.comparison_picture(runs, path)
  heat, heat_again, both, both_again = (path.read_bytes() for path in paths)
  assert heat.startswith(b'\x89PNG')
  assert heat == heat_again
  assert both == both_again
  assert b'tEXt' not in heat + both  # no time, no version
  assert heat != heat_map.heat_map_png(runs[1])


@pytest.mark.parametrize(
  'one',
  [
    run('seq', [[0.1], [1.0]]),
    run('seq', FORGETS[:1], finished=False),
    run('seq', [[3.0, 3.5], [1.25, None], [1.5, 1.0]], score='log_perplexity'),
    {**full(), 'tasks': ['$x^', '\u94f6\u884c', 'one two\nthree ' * 9]},
  ],
  ids=['one task', 'nothing learned yet', 'log-perplexity', 'names'],
)
def test_unusual_runs_can_be_drawn(one, tmp_path):
  report.heat_map(one, tmp_path / 'heat.png')
  report.comparison_picture([one], tmp_path / 'comparison.png')
  assert report.comparison_table([one])
  assert report.matrix_table(one)


def test_long_names_are_cut():
  assert plots.shortened('one two\nthree', 20) == 'one two three'
  assert plots.shortened('one two three', 9) == 'one two…'


def test_orders_and_many_methods_can_be_drawn(tmp_path):
  runs = [run(f'method {i}', FORGETS) for i in range(8)]
  runs.append({**run('method 0', KEEPS, 1), 'tasks': ['music', 'bank', 'travel']})
  report.comparison_picture(runs, tmp_path / 'comparison.png')


def test_names_of_lines_do_not_overlap():
  places = comparison_plot._apart([0.1, 0.5, 0.5, 0.52, 0.9], 0.05)
  assert places == pytest.approx([0.1, 0.506667 - 0.05, 0.506667, 0.506667 + 0.05, 0.9], abs=1e-5)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'figure.png'
  path.write_bytes(b'old')

  def full_disk(*_):
    raise OSError(errno.ENOSPC, 'no space left on device')

  monkeypatch.setattr(os, 'fsync', full_disk)
  with pytest.raises(OSError, match='no space'):
    report.heat_map(full(), path)
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['figure.png']


def test_results_read_back_from_json_say_the_same():
  assert report.matrix_table(json.loads(json.dumps(full()))) == report.matrix_table(full())


def test_tables_need_neither_jax_nor_matplotlib():
  code = 'import sys, jcl.reports.report; print({"jax", "matplotlib", "scipy"} & set(sys.modules))'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout == 'set()\n'


def test_the_table_of_the_readme_has_the_columns_and_the_width_of_the_command():
  lines = (ROOT / 'README.md').read_text().splitlines()
  first = next(i for i, line in enumerate(lines) if line.startswith('    method  seeds'))
  heads = [head for words in tables.COLUMNS.values() for head in words.split('\n')]
  assert set(lines[first].split()[2:]) <= set(heads)
  assert len(lines[first].strip().split()) == 2 + len(
    lines[first + 2].replace(' ± ', '±').split()[2:]
  )
  assert max(len(line) for line in lines[first : first + 4]) <= 4 + tables.WIDTH
