"""Paths that a user gives: `~` is expanded everywhere, a URL is refused before anything happens."""

import json
import os
import pathlib

import pytest
from absl import flags
from support import ROOT, launchers

import jcl
from jcl import commands
from jcl.commands import command_line
from jcl.config import Config, StreamConfig
from jcl.errors import UserError
from jcl.methods import registry
from jcl.storage import paths
from jcl.training import experiment

URLS = (
  'gs://bucket/run', 's3://bucket/run', 'S3A://bucket', 'hdfs://host:9000/run', 'https://x.org/y',
  'file:///data/run', 'hf://owner/name', 'abfss://c@a/x', 'gs:/bucket/run',
)  # fmt: skip
PATHS = ('runs/a', '/data/a', './gs', 'a:b', 'C:/runs', 'gs:', 'odd:/x', 'sha256:00', 'owner/name')


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  (tmp_path / 'home').mkdir()
  monkeypatch.chdir(tmp_path)
  return tmp_path / 'home'


@pytest.mark.parametrize('url', URLS)
def test_a_url_is_no_path(url):
  with pytest.raises(UserError, match=r'URL.*; .*(path|folder)') as caught:
    paths.local(url, '--workdir')
  assert str(caught.value).startswith(f'--workdir is {url!r}')
  with pytest.raises(UserError, match=r'^--workdir is .*URL'):
    paths.local(pathlib.PurePosixPath(url), '--workdir')


@pytest.mark.parametrize('path', PATHS)
def test_a_path_is_no_url(path):
  assert str(paths.local(path, 'x')) == str(pathlib.Path(path))


def test_an_unknown_scheme_is_refused_too():
  with pytest.raises(UserError, match='URL'):
    paths.local('anything+else://x', 'x')


def test_a_file_url_is_told_its_path():
  with pytest.raises(UserError, match='give the path alone, /data/run'):
    paths.local('file:///data/run', 'x')


def test_homes(home):
  assert paths.local('~/a', 'x') == home / 'a'
  assert paths.local('~', 'x') == home
  assert paths.local('~root/a', 'x') == pathlib.Path(os.path.expanduser('~root')) / 'a'
  with pytest.raises(UserError, match="x is '~nobody-here/a', but the user 'nobody-here'"):
    paths.local('~nobody-here/a', 'x')
  pathlib.Path('~draft').touch()  # a shell leaves it alone too
  assert paths.local('~draft', 'x') == pathlib.Path('~draft')


def test_every_flag_that_is_a_path_is_read_as_one(home):
  """A flag whose help speaks of a folder or file, or whose name is that of such a flag."""
  named = {'workdir', 'out', 'runs', 'adapters', 'base', 'stream', 'model', 'file'}
  found = set()
  for name in commands.SUMMARIES:
    given = flags.FlagValues()
    commands.load(name).define_flags(given, [])
    for flag in set(given) & named:
      found.add(flag)
      command_line.parse(given, [f'--{flag}=~/a'])
      assert given[flag].value in (str(home / 'a'), (str(home / 'a'),)), (name, flag)
      with pytest.raises(UserError, match=f'--{flag} is .*URL'):
        command_line.parse(given, [f'--{flag}=s3://bucket/a'])
  assert found >= named - {'stream'}


def test_every_field_that_is_a_path_is_checked():
  names = {name for name, _ in paths.path_fields(Config(method=registry.settings('lamol')))}
  assert names >= {'stream.path', 'stream.cache', 'backbone.path', 'backbone.tokenizer_path'}
  for method, field in (('pretrain', 'probe_path'), ('distill', 'teacher_path')):
    config = Config(method=registry.settings(method))
    config.scenario = config.method.scenarios[0]
    setattr(config.method, field, 'gs://x/y')
    with pytest.raises(UserError, match=rf'method\.{field} is .*URL'):
      experiment.check(config)


def test_a_bucket_as_workdir_is_refused_before_anything_is_read(home):
  ended = launchers.call('train', '--config=quickstart:seq', '--workdir=gs://bucket/run')
  assert (ended.returncode, ended.stdout) == (2, '')
  assert len(ended.stderr.splitlines()) == 1
  assert 'gcsfuse' in ended.stderr
  assert not list(ROOT.glob('gs:*'))


def test_python_refuses_urls_and_expands_homes(home):
  with pytest.raises(UserError, match=r'workdir is .*URL'):
    jcl.learn('synthetic', workdir='gs://bucket/run')
  with pytest.raises(UserError, match=r'stream\.path is .*URL'):
    jcl.load_stream('files', 's3://bucket/manifest.json')
  with pytest.raises(UserError, match=r'backbone\.path is .*URL'):
    jcl.learn('synthetic', model='gs://bucket/model')
  with pytest.raises(UserError, match=r'load_model: path is .*URL'):
    jcl.load_model('gs://bucket/run')
  with pytest.raises(UserError, match=str(home / 'nothing')):
    jcl.load_stream('clinc150', '~/nothing')


def test_a_manifest_may_name_homes(home):
  rows = [{'text': f'text {c} {i}', 'label': c} for c in 'ab' for i in range(2)]
  (home / 'data').mkdir()
  for split in ('train', 'test'):
    lines = [json.dumps({**row, 'text': f'{split} {row["text"]}'}) for row in rows]
    (home / 'data' / f'{split}.jsonl').write_text('\n'.join(lines))
  splits = {split: f'~/data/{split}.jsonl' for split in ('train', 'test')}
  manifest = {'folders': ['~/data'], 'label': 'label', 'tasks': [{'name': 'one', **splits}]}
  (home / 'manifest.json').write_text(json.dumps(manifest))
  stream = jcl.load_stream(StreamConfig(name='files', path='~/manifest.json'))
  assert [len(task.train) for task in stream.tasks] == [4]
  manifest['tasks'][0]['train'] = 'gs://bucket/train.jsonl'
  (home / 'manifest.json').write_text(json.dumps(manifest))
  with pytest.raises(UserError, match=r'manifest\.json: a path is .*URL'):
    jcl.load_stream(StreamConfig(name='files', path='~/manifest.json'))


def test_names_where_the_file_system_is_ascii(monkeypatch):
  assert paths.nameable('1-天气') == '1-天气'
  monkeypatch.setattr(os, 'fsencode', lambda name: name.encode('ascii'))
  assert paths.nameable('1-天气') == '1-%E5%A4%A9%E6%B0%94'
  assert paths.nameable('1-bank a') == '1-bank a'


@pytest.mark.parametrize('home_is', ['missing', 'a file', 'not there'])
def test_a_cache_without_a_home(home_is, tmp_path, monkeypatch):
  home = tmp_path / 'home'
  if home_is == 'a file':
    home.touch()
  monkeypatch.setenv('HOME', str(home))
  if home_is == 'missing':
    monkeypatch.setattr(pathlib.Path, 'home', lambda: (_ for _ in ()).throw(RuntimeError()))
  found = paths.user_cache('xla')
  assert found.is_relative_to(tmp_path) == (home_is == 'not there')


@pytest.mark.parametrize(
  ('path', 'says'),
  [
    ('a' * 256, r'^workdir: a{40}… has more than 255 bytes'),
    ('x/' + '天' * 90, r'^workdir: 天{40}… has more than 255 bytes'),
    ('{file}/run', r"^workdir is '.*/run', but .*/file is a file; give another folder"),
    ('{file}/a/b', r"^workdir is '.*', but .*/file is a file"),
    ('a\ud800', r'^workdir is .*; a path holds no half of a surrogate pair'),
    (3, '^workdir is a int; give a path as text'),
    (None, '^workdir is a NoneType; give a path as text'),
  ],
)
def test_what_no_system_has_is_refused_in_python(path, says, tmp_path):
  (tmp_path / 'file').write_text('x')
  path = path.format(file=tmp_path / 'file') if isinstance(path, str) else path
  with pytest.raises(UserError, match=says):
    paths.local(path, 'workdir')
  assert paths.local('a' * 255, 'workdir').name == 'a' * 255
