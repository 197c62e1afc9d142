"""Replay and pretraining with a corpus: what is refused, what a run reads, and a mix by task."""

import pytest
from support import runs, tiny

from jcl import methods
from jcl.errors import UserError
from jcl.training import experiment, general_text, inputs

SMALL = {'max_tasks': 2, 'max_train_per_task': 8, 'max_test_per_task': 4}
TEXT = 'what will the weather be like today please tell me the time\n' * 6


def config(folder, method='replay', text=TEXT, **given):
  made = runs.config(method, stream=SMALL, train={'epochs': 1})
  (folder / 'corpus.txt').write_text(text)
  for name, value in {'corpus': str(folder / 'corpus.txt'), 'unit': 'tokens', **given}.items():
    if hasattr(made.method, name):
      setattr(made.method, name, value)
  return made


@pytest.mark.parametrize(
  ('method', 'given', 'says'),
  [
    ('replay', {'unit': 'rows'}, r"method\.unit is 'rows'; it must be 'tokens' or 'targets'"),
    ('replay', {'level': 'batch', 'unit': 'rows'}, r"method\.corpus is .*level 'dataset'"),
    ('replay', {'update': 'every_epoch'}, r"method\.update .*'after_task' with a corpus"),
    ('replay', {'corpus': '/nowhere.txt'}, r'method\.corpus .*it must be a text file'),
    ('replay', {'mix_by_task': (0.1, -1.0)}, r'method\.mix_by_task .*0 or more'),
    ('replay', {'mix_by_task': (0.1,), 'replay_ratio': 0.5}, r'method\.replay_ratio .*mix_by_task'),
    ('replay', {'corpus': '', 'corpus_share': 0.1}, r'method\.corpus_share .*corpus given'),
    ('derpp', {'level': 'dataset'}, r"method\.corpus .*must be one of ''"),
    ('pretrain', {'mix_by_task': (0.1, 1.0)}, r'method\.mix_by_task .*below 1'),
  ],
)
def test_what_a_corpus_cannot_have_is_refused(method, given, says, tmp_path):
  made = config(tmp_path, method, **given)
  with pytest.raises(UserError, match=says) as error:
    experiment.check(made)
  assert '\n' not in str(error.value)


def test_a_head_raw_text_and_a_mix_of_more_tasks_are_refused(tmp_path):
  made = config(tmp_path)
  made.backbone.head = 'linear'
  with pytest.raises(UserError, match=r"method\.corpus .*backbone\.head ''"):
    experiment.check(made)
  chosen = methods.settings_class('replay')
  with pytest.raises(UserError, match=r"method\.corpus is 'x'; it must be '' with raw text"):
    chosen(corpus='x').check_run('cpt', tiny.tools('plain'))
  with pytest.raises(UserError, match=r'method\.mix_by_task .*at most 3 numbers'):
    chosen(mix_by_task=(0.1,) * 4).check_run('cil', tiny.tools('plain'))


def test_another_corpus_is_another_input_and_a_probe_out_of_it_is_refused(tmp_path):
  made = config(tmp_path)
  before = experiment.assemble(made)
  (rows,) = (rows for rows in before.inputs.rows if rows.split == inputs.CORPUS)
  assert rows == general_text.corpus_rows(before.tools.corpus, before.text)[0]
  (tmp_path / 'corpus.txt').write_text(f'please {TEXT}')
  now = experiment.assemble(made)
  found = inputs.differences(before.inputs, now.inputs)
  assert list(found) == ['stream.data']
  assert 'method.corpus' in found['stream.data']
  made.evaluate.probe = str(tmp_path / 'probe.txt')
  (tmp_path / 'probe.txt').write_text(TEXT)
  with pytest.raises(UserError, match=r'evaluate\.probe .*: it has words of method\.corpus'):
    experiment.assemble(made)


def test_the_mix_of_each_task():
  for name, old in (('replay', 0.25), ('pretrain', 0.25)):
    settings = methods.settings_class(name)(mix_by_task=(0.25, 0.5))
    tools = tiny.tools('plain')
    method = methods.make(tools.backbone, settings)
    memory = method.init(tiny.params(tools.backbone), tools.stream, tools)
    first, second, third = (method.plan(memory, task) for task in tools.stream.tasks)
    assert first.ratio == (old if name == 'replay' else old / (1 - old))
    assert second.ratio == third.ratio == (0.5 if name == 'replay' else 1.0)
    assert first.corpus_ratio == 0


@pytest.mark.slow
@pytest.mark.parametrize('method', ['replay', 'pretrain'])
def test_a_run_that_is_killed_goes_on_in_the_same_bits(method, tmp_path):
  made = config(tmp_path, method, corpus_share=0.75)
  if method == 'pretrain':
    made.scenario = 'cpt'
  for folder in ('killed', 'whole'):
    (tmp_path / folder).mkdir()
  with pytest.raises(runs.Killed):
    runs.run(made, tmp_path / 'killed', kill=('train', 1))
  again, whole = (runs.run(made, tmp_path / folder) for folder in ('killed', 'whole'))
  assert again['params_sha256'] == whole['params_sha256']
  first = whole['mix'][0]
  assert first['old'] > 0  # of the corpus alone: there is no task before it
