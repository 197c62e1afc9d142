"""Tables to the letter, pictures to the byte, a page that nothing can break out of."""

import errno
import json
import os
import subprocess
import sys

import pytest

from jcl.errors import UserError
from jcl.reports import (
  comparison,
  comparison_plot,
  formatting,
  heat_map,
  html_page,
  plots,
  report,
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
    '                                                                   '
    'worst just  train  generate  invalid  pseudo  distinct\n'
    'method  seeds          A_T            Ā  forgetting          BWT  '
    '    learned      s         s        %  kept %         %\n'
    'seq         2  51.7 ± 63.5  70.6 ± 21.2  50.0 ± 0.0  -50.0 ± 0.0  '
    '75.0 ± 63.5   12.0         ·        ·       ·         ·\n'
    'lamol       1         93.5         92.8         2.5         -2.5  '
    '       90.0   12.3       1.5     10.0    80.0      75.0\n'
    'joint       1         95.0            ·           ·            ·  '
    '          ·      ·         ·        ·       ·         ·\n'
    'accuracy in %; mean ± 95 % interval over seeds\n'
    'pseudo samples: kept % of those drawn, distinct % of those kept\n'
    'joint keeps 3 models'
  )


def test_settings_tell_runs_of_one_method_apart_and_seeds_do_not():
  runs = [full(seed=0), full(seed=1), full(seed=0)]
  runs[2]['config'] = {'method': {'gamma': 0.5}, 'train': {'seed': 0, 'epochs': 5}}
  lines = report.comparison_table(runs).splitlines()
  assert lines[2].startswith('lamol (gamma 0.2)      2 ')
  assert lines[3].startswith('lamol (gamma 0.5)      1 ')
  elsewhere = {**full(), 'stream': 'clinc150', 'tasks': ['a', 'b', 'c']}
  lines = report.comparison_table([full(), elsewhere]).splitlines()
  assert [line.split('  ')[0] for line in lines[2:4]] == [
    'lamol, synthetic cil', 'lamol, clinc150 cil'
  ]  # fmt: skip


def test_labels_of_groups_are_all_different():
  """Where the first settings that differ are equal too, groups are counted."""
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
  assert labels[1:] == ['lamol (a (1,), b (2,), …)', 'lamol (a (1,), b (2,), …) #2',
                        'lamol (a (1,), b (2,), …) #3']  # fmt: skip


DAMPED, OTHER = 'acme.methods:Damped', 'other:Damped'


def test_a_method_of_another_package_has_its_short_name_where_that_is_clear(tmp_path):
  one = full(DAMPED)
  assert report.matrix_table(one).startswith('damped on synthetic')
  assert comparison.group_runs([one, full('ewc+' + DAMPED)])[0].label == 'damped'
  assert comparison.group_runs([one, full('ewc+' + DAMPED)])[1].label == 'ewc+damped'
  labels = [group.label for group in comparison.group_runs([one, full(OTHER), full('seq')])]
  assert labels == [DAMPED, OTHER, 'seq']
  report.html_report([one], tmp_path / 'report.html')
  page = (tmp_path / 'report.html').read_text('utf-8')
  assert f'<td>{DAMPED}</td>' in page
  assert '<h1>damped on synthetic (cil)</h1>' in page
  assert heat_map.heat_map_png(one) == heat_map.heat_map_png(full('damped'))
  assert heat_map.heat_map_png(one) != heat_map.heat_map_png(full('dampet'))


@pytest.mark.parametrize('name', ['lamol', 'method 0', 'a: b', 'x:', '<a:b>', 'ewc+l2'])
def test_any_other_name_of_a_method_stays(name):
  assert formatting.short_method_name(name) == name


def test_runs_under_way_do_not_hide_finished_ones():
  runs = [run('seq', FORGETS, 0), run('seq', FORGETS[:2], 1, finished=False)]
  table = report.comparison_table(runs)
  assert table.splitlines()[2].split()[:3] == ['seq', '1', '56.7']
  assert 'seq is left out, not finished: seed 1' in table
  assert 'seq is not finished: seed 1' in report.comparison_table(runs[1:])


def test_what_cannot_be_compared_is_refused():
  with pytest.raises(UserError, match='there are no runs'):
    report.comparison_table([])
  with pytest.raises(UserError, match='accuracy and log_perplexity'):
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


def test_page_escapes_what_runs_say(tmp_path):
  evil = '<script>alert(1)</script>'
  one = full()
  one.update(tasks=[evil, 'b', 'c'], method=evil, stream=evil)
  one['config']['stream'] = {'path': evil}
  one['negative_flips']['examples'] = [evil]
  one['pseudo'][0].update(task=evil, samples=[[evil, evil], evil])
  one['resumes'] = [{'phase': evil}]
  for runs in ([one], [one, run('joint', JOINT)]):
    report.html_report(runs, tmp_path / 'report.html')
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert '<script' not in page
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page


def test_page_holds_everything_it_shows(tmp_path):
  report.html_report([full(), run('joint', JOINT)], tmp_path / 'report.html')
  page = (tmp_path / 'report.html').read_text('utf-8')
  assert page.count('src="data:image/png;base64,') == 3  # the comparison and two heat maps
  assert page.count('src=') == 3
  assert '://' not in page
  for words in ('my &lt;b&gt;balance&lt;/b&gt; &amp; more', 'method.gamma = 0.2',
                'test.jsonl:7', '1 of 40', 'all before', 'A_T 93.5',
                'train 12.3', 'phase train', 'music 7', 'ab12'):  # fmt: skip
    assert words in page


def test_a_report_shows_itself_in_a_notebook_and_keeps_its_style_to_itself(tmp_path):
  shown = report.Report(full())
  shown.save(tmp_path / 'saved.html')
  report.html_report([full()], tmp_path / 'written.html')
  page = (tmp_path / 'saved.html').read_text('utf-8')
  assert page == (tmp_path / 'written.html').read_text('utf-8') == shown.html()
  inner = shown._repr_html_()
  assert inner in page
  assert '<body' not in inner
  assert inner.count('src="data:image/png;base64,') == 1
  rules = html_page.CSS.replace('\n  ', ' ').strip().splitlines()
  assert len(rules) > 10
  for rule in rules:
    assert all(s.strip().startswith('.jcl') for s in rule.partition('{')[0].split(',')), rule
  assert str(shown) == repr(shown) == report.matrix_table(full())


def test_a_report_on_several_runs_compares_them_first():
  runs = [full(), run('joint', JOINT)]
  shown = report.Report(*runs)
  assert str(shown) == '\n\n'.join([report.comparison_table(runs), *map(report.matrix_table, runs)])
  assert shown._repr_html_().count('src="data:image/png;base64,') == 3
  with pytest.raises(UserError, match='there are no runs'):
    report.Report()


def test_results_read_back_from_json_say_the_same():
  assert report.matrix_table(json.loads(json.dumps(full()))) == report.matrix_table(full())


def test_tables_need_neither_jax_nor_matplotlib():
  code = 'import sys, jcl.reports.report; print({"jax", "matplotlib", "scipy"} & set(sys.modules))'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout == 'set()\n'


def test_page_says_where_examples_that_flipped_stand(tmp_path):
  one = full()
  flip = {
    'task': 'a', 'split': 'test', 'number': 7, 'id': 'mail-9', 'place': 'mails.csv:12',
    'text': 'x\x1b[2J' + 'y' * 200, 'answer': 'data_loss',
  }  # fmt: skip
  one['negative_flips']['examples'] = [flip, 'older.jsonl:3', 5, None]
  report.html_report([one], tmp_path / 'report.html')
  page = (tmp_path / 'report.html').read_text('utf-8')
  for cell in ('mail-9', 'mails.csv:12', '7', 'data_loss', 'older.jsonl:3'):
    assert f'<td>{cell}</td>' in page
  assert 'x\\x1b[2Jyyy' in page
  assert '\x1b' not in page
  assert 'y' * 100 not in page
