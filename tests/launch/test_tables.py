"""The tables of docs/results.md that are made from kept runs."""

import argparse
import json
import sys

import pytest
from absl import flags
from support import ROOT
from support.model_folder import STORIES, needs_stories

sys.path.insert(0, str(ROOT / 'launch' / 'results'))
import pictures
import table_specs
import tables

from jcl.commands import config_flag
from jcl.reports.results import read
from jcl.training import experiment

EVERY = [(name, row) for name, table in tables.TABLES.items() for row in table.rows]


def arguments(**changed) -> argparse.Namespace:
  given = {'data': 'data', 'model': '', 'workdir': 'runs', 'whole': False}
  return argparse.Namespace(**given | changed)


def made_up(table: str, name: str, seed: int, scores: list[float]) -> dict:
  """Results of a run of a row whose last scores are given; it has texts of its data."""
  spec = tables.TABLES[table]
  config: dict = {'train': {'seed': seed}}
  for flag in spec.row_flags(spec.rows[name], spec.shown, seed):
    place, _, value = flag.removeprefix('--config.').partition('=')
    group, _, field = place.partition('.')
    number = value.replace('.', '').replace('e-', '').isdigit()
    config.setdefault(group, {})[field] = float(value) if number else value
  tasks = [f'task {i}' for i in range(len(scores))]
  matrix = [[None] * len(tasks), *([None] * (len(tasks) - 1) + [s] for s in scores[:-1]), scores]
  return {
    'method': spec.rows[name].method, 'stream': table, 'seed': seed, 'tasks': tasks,
    'matrix': matrix, 'sizes': [10] * len(tasks), 'metrics': {'average_accuracy': sum(scores) / 2},
    'config': config, 'finished': True, 'tokens': {'train': 41_900}, 'by_class': [],
    'cost': {'models': 1, 'memory_bytes': 1_234_567},
    'negative_flips': {'count': 1, 'of': 2, 'examples': ['a text of the data']},
    'pseudo': [{'kept': 4, 'verbatim': 1, 'drawn': 5, 'samples': [['a text', 'of the data']]}],
  }  # fmt: skip


@pytest.fixture
def kept(tmp_path, monkeypatch):
  """The folder of kept runs: three on a slice, three on whole data, and their page."""
  monkeypatch.setattr(tables, 'ROOT', tmp_path)
  monkeypatch.setattr(tables, 'KEPT', tmp_path / 'docs' / 'results')
  monkeypatch.setattr(tables, 'PAGE', tmp_path / 'docs' / 'results.md')
  for table, name, seed, scores in (
    ('long_sequence', 'seq', 0, [0.2, 0.6]), ('long_sequence', 'seq', 1, [0.4, 0.8]),
    ('long_sequence', 'lora', 0, [1.0, 0.5]), ('intents_hwu64', 'lda', 0, [0.5, 0.5]),
    ('intents_hwu64', 'ranpac', 0, [0.7, 0.7]), ('intents_hwu64', 'ranpac', 2, [0.9, 0.9]),
  ):  # fmt: skip
    folder = tmp_path / 'runs' / f'{table}-{tables.TABLES[table].shown}' / f'{name}-{seed}'
    folder.mkdir(parents=True)
    (folder / 'results.json').write_text(json.dumps(made_up(table, name, seed, scores)))
    (folder / 'cost.json').write_text('{"cpu_seconds": 61.4}')
  places = ''.join(f'<!-- table {name} -->\n<!-- end of {name} -->\n' for name in tables.TABLES)
  (tmp_path / 'docs').mkdir()
  tables.PAGE.write_text(f'# Results\n{places}the end\n')
  runs = f'--workdir={tmp_path / "runs"}'
  part = ['--table=long_sequence', runs]
  assert tables.main(['keep', *part, '--rows=seq', '--seeds=0,1']) == 0
  assert tables.main(['keep', *part]) == 0
  assert tables.main(['keep', '--table=intents_hwu64', runs]) == 0
  assert tables.main(['write']) == 0
  return tables.KEPT


def shown(table: str) -> tuple[dict[str, list[str]], str]:
  """The cells of a table of the page by row, and all that the page has in the table's place."""
  text = tables.PAGE.read_text().split(f'<!-- table {table} -->\n')[1].split('<!--')[0]
  cells = [line.split('|') for line in text.splitlines() if line.startswith('|')]
  return {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in cells}, text


def test_the_page_has_what_the_kept_runs_have(kept):
  rows, text = shown('long_sequence')
  heads = rows['method']
  assert rows['`seq`'][0] == '50.0 ± 127.1'  # Student's t of one degree of freedom is 12.71
  assert rows['`lora`'][0] == f'75.0 ± {196 * (0.25 / 10) ** 0.5 / 2:.1f}'  # of 10 rows a task
  assert rows['`lora`'][heads.index('tokens, thousands')] == '42'
  assert rows['`seq`'][heads.index('CPU seconds')] == '61, 61'
  assert tables.PAGE.read_text().endswith('the end\n')
  assert '`slao`' not in rows
  assert 'Not run to the end yet: `olora`, `slao`' in text


def test_a_table_without_a_slice_shows_the_whole_data(kept):
  """Its rows have seeds of their own, and a seed that is missing is told."""
  rows, text = shown('intents_hwu64')
  heads = rows['method']
  assert rows['`solver=ranpac`'][0] == '80.0 ± 127.1'
  assert rows['`solver=lda`'][0] == f'50.0 ± {196 * (0.25 / 10 / 2) ** 0.5:.1f}'
  assert rows['`solver=lda`'][heads.index('kept between tasks, MB')] == '1.2'
  missing = '\nNot run to the end yet: `ranpac` with seed 1, `klda`, `ncm`.\n'
  picture = '\n![The rows of the table intents_hwu64, drawn](results/intents_hwu64.png)\n'
  assert text.endswith(missing + picture)
  assert sorted(file.parent.name for file in kept.glob('intents_hwu64-whole/*/*')) == [
    'lda-0', 'ranpac-0', 'ranpac-2'
  ]  # fmt: skip


def test_pictures_are_those_of_the_kept_runs(kept, capsys):
  assert tables.main(['verify']) == 0
  drawn = sorted(file.name for file in kept.glob('*.png'))
  assert drawn == ['intents_hwu64.png', 'long_sequence.png']
  assert '](results/long_sequence.png)' in shown('long_sequence')[1]
  assert '.png' not in shown('general')[1]
  (kept / 'long_sequence.png').unlink()
  assert tables.main(['verify']) == 1
  assert 'pictures are missing' in capsys.readouterr().err
  capsys.readouterr()
  assert tables.main(['write']) == 0
  assert capsys.readouterr().out == 'drawn long_sequence.png\n'
  assert tables.main(['verify']) == 0
  run = made_up('intents_hwu64', 'klda', 0, [0.6, 0.6])
  other = kept.parents[1] / 'runs' / 'intents_hwu64-whole' / 'klda-0'
  other.mkdir()
  (other / 'results.json').write_text(json.dumps(run))
  tables.main(['keep', '--table=intents_hwu64', f'--workdir={kept.parents[1] / "runs"}'])
  assert tables.main(['verify']) == 1
  capsys.readouterr()
  assert tables.main(['write']) == 0
  assert capsys.readouterr().out == 'drawn intents_hwu64.png\n'


def test_runs_that_were_probed_are_drawn_by_how_far_they_moved():
  ends = {'seq': {'kl': 0.1, 'kl_prompts': 1.0}, 'lora': {'kl': 0.05, 'kl_prompts': 0.3}}
  figure = pictures._drift(ends)
  (axes,) = figure.axes
  points = {tuple(float(x) for x in line.get_xydata()[0]) for line in axes.lines}
  assert points == {(0.1, 1.0), (0.05, 0.3)}
  assert {text.get_text(): text.xy for text in axes.texts} == {
    name: (end['kl'], end['kl_prompts']) for name, end in ends.items()
  }


def test_rows_of_intents_have_each_its_order_of_classes_and_the_encoder(capsys):
  assert tables.main(['run', '--table=intents_clinc150', '--print']) == 0
  lines = capsys.readouterr().out.splitlines()
  names = [line.rpartition('/')[2] for line in lines]
  assert names == ['ranpac-0', 'ranpac-1', 'ranpac-2', 'klda-0', 'lda-0', 'ncm-0']
  for line, name in zip(lines, names, strict=True):
    seed = name.partition('-')[2]
    assert f'--config.stream.order_seed={seed} ' in line
    assert f'--config.train.seed={seed} ' in line
    assert '--config.backbone.path=models/minilm-l6 ' in line
    assert '/intents_clinc150-whole/' in line
  assert tables.main(['run', '--table=general', '--rows=seq', '--print', '--model=m']) == 0
  assert '--config.backbone.path=m ' in capsys.readouterr().out


def test_a_changed_figure_is_found(kept, capsys):
  assert tables.main(['verify']) == 0
  file = kept / 'long_sequence-slice' / 'lora-0' / 'results.json'
  file.write_text(file.read_text().replace('0.5', '0.7'))
  assert tables.main(['verify']) == 1
  assert tables.main(['write']) == 1
  assert 'another digest' in capsys.readouterr().err


def test_a_page_with_another_figure_is_found(kept, capsys):
  tables.PAGE.write_text(tables.PAGE.read_text().replace('75.0', '76.0'))
  assert tables.main(['verify']) == 1
  assert 'other tables' in capsys.readouterr().err
  assert tables.main(['write']) == 0
  assert tables.main(['verify']) == 0


@pytest.mark.parametrize(
  ('name', 'setting'),
  [
    ('long_sequence-slice/seq-1', 'train.epochs'),
    ('intents_hwu64-whole/ranpac-2', 'stream.order_seed'),
    ('intents_hwu64-whole/lda-0', 'method.shrinkage'),
  ],
)
def test_a_run_with_other_settings_is_found(kept, name, setting):
  file = kept / name / 'results.json'
  name, run = str(file.relative_to(kept)), read(file)
  assert table_specs.other_settings(name, run) == []
  group, field = setting.split('.')
  run['config'][group][field] += 0.01
  assert setting in ' '.join(table_specs.other_settings(name, run))


def test_a_run_of_no_row_is_found(kept):
  run = read(kept / 'intents_hwu64-whole' / 'lda-0' / 'results.json')
  for name in ('intents_hwu64-whole/none-0', 'intents_hwu64-slice/lda-0', 'none-whole/lda-0'):
    assert 'of no row' in ' '.join(table_specs.other_settings(f'{name}/results.json', run))


def test_a_missing_and_an_unlisted_file_are_found(kept):
  file = next(kept.glob('*/*/results.json'))
  file.parent.rename(file.parent.with_name('seq-77'))
  found = ' '.join(tables.faults())
  assert 'is not in docs/results' in found
  assert 'is not in SHA256SUMS' in found


def test_an_unfinished_run_is_not_kept(kept, tmp_path):
  folder = tmp_path / 'runs' / 'long_sequence-slice' / 'slao-0'
  folder.mkdir()
  run = made_up('long_sequence', 'slao', 0, [0.2, 0.6]) | {'finished': False}
  (folder / 'results.json').write_text(json.dumps(run))
  part = ['--table=long_sequence', f'--workdir={tmp_path / "runs"}', '--rows=slao']
  assert tables.main(['keep', *part]) == 0
  assert not list(kept.glob('*/slao-0'))


def test_texts_of_the_data_are_not_kept(kept):
  files = list(kept.glob('*/*/results.json'))
  assert files
  for file in files:
    assert 'of the data' not in file.read_text()
    assert '"verbatim": 1' in file.read_text()


def test_kept_files_hold_no_texts_of_the_data():
  files = list(tables.KEPT.glob('*/*/results.json'))
  assert files
  for file in files:
    run = json.loads(file.read_text())
    assert run['finished']
    assert not run['by_class']
    assert 'examples' not in (run['negative_flips'] or {})
    assert not any('samples' in line or 'rejected' in line for line in run['pseudo'])


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize(('table', 'row'), EVERY)
def test_every_setting_of_a_row_is_read(table, row, whole, tmp_path):
  """A setting that the method does not read would be refused when the run begins."""
  spec = tables.TABLES[table]
  texts = tmp_path / 'texts'
  texts.mkdir()
  (texts / 'corpus.txt').write_text('a deep lake\n')
  line = tables.command(spec.rows[row], spec, 3, arguments(whole=whole, workdir=tmp_path))
  given = flags.FlagValues()
  config_flag.define(given, line)
  given(['jcl', *line])
  config = config_flag.read(given)
  assert config.train.seed == 3
  experiment.check(config)


def test_a_row_that_there_is_not_is_refused(capsys):
  assert tables.main(['run', '--table=general', '--rows=seq,none', '--print']) == 2
  assert "no row 'none'" in capsys.readouterr().err


def test_a_change_that_is_allowed_is_passed_on(capsys):
  part = ['run', '--table=general', '--rows=seq', '--print']
  assert tables.main(part) == 0
  assert 'allow_config_change' not in capsys.readouterr().out
  assert tables.main([*part, '--allow_config_change=train.tensor']) == 0
  assert capsys.readouterr().out.endswith(' --allow_config_change=train.tensor\n')


@pytest.mark.slow
@needs_stories
def test_a_table_from_nothing(tmp_path, monkeypatch):
  """Runs a row, goes on with a finished one, keeps it, writes it into the page and verifies it."""
  small = ('--config.stream.max_tasks=2', '--config.stream.max_train_per_task=4',
           '--config.stream.max_test_per_task=2', '--config.train.epochs=1',
           '--config.stream.max_length=256')  # fmt: skip
  monkeypatch.setitem(tables.TABLES, 'general', tables.TABLES['general']._replace(slice=small))
  monkeypatch.setattr(table_specs, 'TABLES', tables.TABLES)
  data, workdir = tmp_path / 'data', tmp_path / 'runs'
  data.mkdir()
  shared = STORIES.parent.parent / 'data'
  (data / 'trace').symlink_to(shared / 'trace500')
  (data / 'long_sequence').symlink_to(shared / 'longsequence')
  part = ['--table=general', '--rows=replay-text', f'--workdir={workdir}', f'--data={data}']
  for _ in range(2):
    assert tables.main(['run', *part, f'--model={STORIES}']) == 0
  kept, page = tmp_path / 'kept', tmp_path / 'results.md'
  kept.mkdir()
  page.write_text(tables.PAGE.read_text())
  monkeypatch.setattr(tables, 'KEPT', kept)
  monkeypatch.setattr(tables, 'PAGE', page)
  monkeypatch.setattr(tables, 'ROOT', tmp_path)
  assert tables.main(['keep', *part]) == 0
  assert tables.main(['write']) == 0
  assert tables.main(['verify']) == 0
  row = next(line for line in page.read_text().splitlines() if 'half of it general text' in line)
  run = read(kept / 'general-slice' / 'replay-text-0' / 'results.json')
  assert run['cpu_seconds'] > 1
  assert f'{run["probe"][-1]["kl"]:.3f}' in row
