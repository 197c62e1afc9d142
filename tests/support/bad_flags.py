"""Flags, configs and workdirs that are wrong; `test_bad_input.py` tries them."""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

QUICKSTART = '--config=configs/quickstart.py'
SMALL = (
  '--config.stream.max_tasks=2', '--config.stream.max_train_per_task=16',
  '--config.stream.max_test_per_task=4', '--config.train.epochs=1', '--config.train.batch_size=16',
  '--config.backbone.width=16', '--config.backbone.layers=1', '--config.backbone.heads=2',
  '--config.backbone.feed_forward=16', '--config.evaluate.batch_size=16',
  '--config.evaluate.every_epochs=0',
)  # fmt: skip
DEEP = '[' * 100_000


class Case(NamedTuple):
  """Something wrong.

  Attributes:
    program: the launcher.
    arguments: its flags; `{here}` is the case's own folder.
    says: what the line must hold: the culprit first, then what would be right.
    files: {path in the folder: content}; see `bad_files.put`.
    needs: good things that are copied there before: run, data, model, model.gguf, adapter, other.
  """

  program: str
  arguments: Sequence[str]
  says: tuple[str, ...]
  files: Mapping[str, Any] = {}
  needs: tuple[str, ...] = ()


def train(*arguments: str, says: tuple[str, ...], **rest: Any) -> Case:
  """Of train.py with the quickstart."""
  return Case('train', [QUICKSTART, *SMALL, '--workdir={here}/new', *arguments], says, **rest)


def config(text: Any, *says: str, method: str = '', **rest: Any) -> Case:
  """Of a config file."""
  arguments = ['--config={here}/mine.py' + method, '--workdir={here}/new']
  return Case('train', arguments, says, {'mine.py': text}, **rest)


def workdir(program: str, files: Mapping[str, Any], *says: str, more: Sequence[str] = ()) -> Case:
  """Of a run that was damaged."""
  given = [QUICKSTART, *SMALL] if program == 'train' else []
  return Case(program, [*given, '--workdir={here}/run', *more], says, files, needs=('run',))


def results(content: Any, *says: str) -> Case:
  """Of a results.json."""
  return Case('report', ['--runs={here}/run'], says, {'run/results.json': content}, needs=('run',))


def of_run(program: str, *arguments: str, says: tuple[str, ...], **rest: Any) -> Case:
  """Of a launcher that opens the good run."""
  return Case(program, ['--workdir={here}/run', *arguments], says, needs=('run',), **rest)


def changed(**fields: Any) -> Any:
  """Changes fields of a run's config.json, `section__field=value`."""

  def change(path: pathlib.Path) -> None:
    values = json.loads(path.read_text())
    for name, value in fields.items():
      *sections, last = name.split('__')
      place = values
      for section in sections:
        place = place[section]
      place[last] = value
    path.write_text(json.dumps(values))

  return change


def replaced(content: Any) -> Any:
  """Puts a file in the place of a folder."""

  def change(path: pathlib.Path) -> None:
    shutil.rmtree(path)
    path.write_text(content) if isinstance(content, str) else content(path)

  return change


def link(target: str) -> Any:
  """Makes a symbolic link."""

  def make(path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)

  return make


CONFIG = 'from jcl.config import Config, TrainConfig\nfrom jcl import methods\n'
# fmt: off
FLAGS = {
  'no flag at all': Case('train', [], ('--config is missing', '--config=quickstart:lamol')),
  'no workdir': Case('train', [QUICKSTART], ('--workdir is missing', 'give --workdir=')),
  'an empty workdir': Case('train', [QUICKSTART, '--workdir='], ('--workdir', 'give --workdir=')),
  'a flag without its value': Case(
    'train', [QUICKSTART, '--workdir'], ('--workdir', '--name=value')
  ),
  'a flag twice': train('--workdir={here}/b', says=('--workdir is given twice', 'give it once')),
  'two configs': train('--config=configs/clinc150.py', says=('--config is given twice', 'once')),
  'a misspelt flag': train('--quite', says=('--quite is no', 'did you mean --quiet?')),
  'a flag of no launcher': train('--epochs=3', says=('--epochs is', '--config.train.epochs')),
  'a word that is no flag': train('lamol', says=("'lamol'", '--name=value')),
  'a switch that is neither': train('--quiet=perhaps', says=('--quiet=perhaps', 'true or false')),
  'no file of flags': train('--flagfile={here}/no', says=('{here}/no', 'a file of flags')),
  'a field that is not there': train('--config.train.epoch=3', says=("'epoch'", 'epochs')),
  'a field of a field': train('--config.scenario.x=3', says=('config.scenario.x', 'it has none')),
  'a field of another method': train('--config.method.lambda_ewc=3', says=('ewc', 'gamma')),
  'something that is no field': train('--config.method.check=3', says=("'check'", 'gamma')),
  'a private name': train('--config.train.__class__=3', says=('__class__', 'epochs')),
  'a field without a name': train('--config.=3', says=('--config.', 'it has method')),
  'a section as a field': train('--config.train=3', says=('--config.train', 'group of settings')),
  'a method as a field': train('--config.method=seq', says=('--config.method', 'group')),
  'a word for a number': train('--config.train.epochs=x', says=('epochs=x', 'a whole number')),
  'no number': train('--config.train.epochs=', says=('train.epochs=', 'a whole number')),
  'a fraction for a count': train('--config.train.epochs=1e3', says=('epochs=1e3', 'whole')),
  'a word for a rate': train('--config.train.l1=a', says=('train.l1=a', 'give a number')),
  'a word for a switch': train('--config.train.fsdp=maybe', says=('fsdp=maybe', 'true or false')),
  'an infinite rate': train('--config.train.learning_rate=1e999', says=('learning_rate', 'range')),
  'a rate that is no number': train('--config.train.learning_rate=nan', says=('_rate', 'range')),
  'dropout that is no number': train('--config.backbone.dropout=nan', says=('dropout', 'range')),
  'a rate that is 0 in float32': train('--config.train.l2=1e-300', says=('train.l2', 'float32')),
  'minutes without end': train('--config.checkpoint.every_minutes=inf', says=('minutes', 'range')),
  'a huge seed': train('--config.train.seed=' + '9' * 30, says=('train.seed', 'below 2147483648')),
  'a width beyond memory': train(f'--config.backbone.width={2**70}', says=('width', 'below')),
  'minus nothing': train('--config.train.epochs=-0', says=('train.epochs is 0', 'at least 1')),
  'a negative count': train('--config.stream.max_tasks=-1', says=('max_tasks', 'at least 0')),
  'a share above 1': train('--config.stream.dev_fraction=2', says=('dev_fraction', 'above 0')),
  'an unknown word': train('--config.train.schedule=x', says=('train.schedule', "'cosine'")),
  'a method out of range': train('--config.method.gamma=-1', says=('method.gamma', 'at least 0')),
  'a pattern that is none': train('--config.train.trainable=[', says=("'['", "'.*' for all")),
  'an empty pattern': train(
    '--config.train.trainable=', says=('trainable is empty', "'.*' trains all")
  ),
  'a pattern without end': train('--config.train.trainable=(a+)+$', says=('forever', 'give')),
  'a pattern of nothing': train(
    '--config.train.trainable=nothing', says=('train.trainable', 'names no parameter', 'embed')
  ),
  'a path that is no text': train('--config.stream.path=\udcff', says=('stream.path', 'text')),
  'heads that do not fit': train('--config.backbone.heads=3', says=('backbone.width', 'heads 3')),
  'a template without fields': Case(
    'train', [QUICKSTART + ':seq', *SMALL, '--workdir={here}/new', '--config.stream.template=x'],
    ("'x'", '{x}', '{y}'),
  ),
  'a template that nothing reads': train(
    '--config.stream.template={x}: {y}', says=('stream.template', 'nothing reads it', 'no LAMOL')
  ),
  'data for a stream that reads none': train(
    '--config.stream.path=mine', says=('stream.path', "other than 'synthetic'")
  ),
  'two models': train(
    '--config.backbone.path=a', '--config.backbone.tokenizer_path=b',
    says=('backbone.tokenizer_path', 'leave one of them empty'),
  ),
  'an unknown method': Case(
    'train', [QUICKSTART + ':lamool', '--workdir={here}/new'], ("'lamool'", 'lamol')
  ),
  'half a composition': Case(
    'train', [QUICKSTART + ':seq+', '--workdir={here}/new'], ("called ''", 'there are seq')
  ),
  'methods that cannot be one': Case(
    'train', [QUICKSTART + ':lamol+lamol_kd', '--workdir={here}/new'],
    ('lamol+lamol_kd', 'only one can'),
  ),
  'one process alone': train('--distributed', says=('--distributed', 'JAX_COORDINATOR_ADDRESS')),
  'plan: no device': Case('plan', [QUICKSTART, '--devices=0'], ('--devices=0', 'positive')),
  'plan: half a device': Case('plan', [QUICKSTART, '--devices=.5'], ('--devices=.5', 'whole')),
  'plan: targets alone': Case('plan', [QUICKSTART, '--targets=5'], ('--targets', '--tokens')),
  'plan: a negative row': Case('plan', [QUICKSTART, '--tokens=-1'], ('--tokens=-1', 'negative')),
  'compare: a method twice': Case(
    'compare', [QUICKSTART, '--methods=seq,seq', '--workdir={here}/new'],
    ('--methods=seq,seq', 'twice'),
  ),
  'compare: no method': Case(
    'compare', [QUICKSTART, '--methods=', '--workdir={here}/new'],
    ('--methods is missing', 'give --methods='),
  ),
  'compare: no seed': Case(
    'compare', [QUICKSTART, '--seeds=', '--workdir={here}/new'],
    ('--seeds is missing', 'give --seeds='),
  ),
  'compare: half a seed': Case(
    'compare', [QUICKSTART, '--seeds=0,1.5', '--workdir={here}/new'], ('--seeds=0,1.5', '0,1,2')
  ),
  'compare: a seed below 0': Case(
    'compare', [QUICKSTART, '--seeds=0,-1', '--workdir={here}/new'], ('seed is -1', 'at least 0')
  ),
  'compare: a word for a number': Case(
    'compare', [QUICKSTART, '--config.method.gamma=many', '--workdir={here}/new'],
    ('method.gamma=many', 'give a number'),
  ),
  'compare: a field of none': Case(
    'compare', [QUICKSTART, '--config.method.gama=1', '--workdir={here}/new'],
    ('method.gama', 'none of seq, lamol, joint'),
  ),
  'benchmark: an unknown workload': Case(
    'benchmark', ['--workloads=task,stp'], ("--workloads has 'stp'", 'there are task, step')
  ),
  'benchmark: an unknown contender': Case(
    'benchmark', ['--against=pytorch'], ("--against has 'pytorch'", 'there are torch, torch-tuned')
  ),
  'benchmark: no rounds': Case('benchmark', ['--rounds=0'], ('--rounds=0', 'positive')),
  'benchmark: a batch of none': Case('benchmark', ['--rows=8,0'], ('--rows has 0', 'at least 1')),
  'benchmark: no such data': Case(
    'benchmark', ['--data={here}/none'], ('{here}/none', 'correct the path')
  ),
  'benchmark: no such model': Case('benchmark', ['--model={here}/m.gguf'], ('m.gguf', 'no such')),
  'benchmark: a folder that is not there': Case(
    'benchmark', ['--json={here}/no/out.json'], ('--json', 'no folder {here}/no')
  ),
  'check: an unknown method': Case('check', ['--methods=lamool'], ("'lamool'", 'there are seq')),
  'check: mutants of a method': Case('check', ['--methods=seq', '--mutants'], ('--methods', 'out')),
  'check: nowhere to write': Case('check', ['--out={here}/no/no'], ('--out', 'no folder {here}')),
  'soak: an unknown method': Case('soak', ['--methods=lamool'], ("'lamool'", 'there are seq')),
  'soak: no time': Case('soak', ['--minutes=0'], ('--minutes=0', 'above 0')),
  'soak: time that is no number': Case('soak', ['--minutes=nan'], ('--minutes=nan', 'above 0')),
  'soak: a folder in use': Case('soak', ['--workdir={here}'], ('--workdir', 'new folder')),
  'merge: nothing to merge': Case('merge', ['--out={here}/new'], ('--adapters', 'give --adapters')),
  'merge: an unknown way': Case(
    'merge',
    ['--adapters={here}/adapter', '--base={here}/model', '--how=mix', '--out={here}/new'],
    ("'mix'", 'there are linear'), needs=('adapter', 'model'),
  ),
  'merge: words for weights': Case(
    'merge', ['--adapters=a,b', '--weights=a,b', '--out={here}/new'], ('--weights', '0.5,0.25')
  ),
  'merge: the same twice': Case(
    'merge', ['--adapters=a,a', '--out={here}/new'], ('--adapters=a,a', 'names the folder a twice')
  ),
  'merge: density of linear': Case(
    'merge', ['--adapters=a,b', '--density=.5', '--out={here}/new'], ('--density', 'of ties and')
  ),
  'merge: density that is none': Case(
    'merge', ['--adapters={here}/adapter', '--base={here}/model', '--how=ties', '--density=nan',
              '--out={here}/new'],
    ('density nan', 'in (0, 1]'), needs=('adapter', 'model'),
  ),
  'merge: weights for others': Case(
    'merge', ['--adapters={here}/adapter', '--base={here}/model', '--weights=.5,.5',
              '--out={here}/new'],
    ('2 weights for 1 adapter', 'one each'), needs=('adapter', 'model'),
  ),
  'merge: out in use': Case(
    'merge', ['--adapters=a,b', '--out={here}/data'], ('{here}/data', 'a new folder'),
    needs=('data',),
  ),
  'evaluate: no workdir': Case('evaluate', [], ('--workdir is missing', 'give --workdir=')),
  'evaluate: an unknown split': of_run('evaluate', '--split=val', says=('--split=val', 'dev')),
  'evaluate: fewer than none': of_run('evaluate', '--wrong=-1', says=('--wrong=-1', 'negative')),
  'generate: no sample': of_run('generate', '--count=0', says=('--count=0', 'in the range [1')),
  'generate: heat that is none': of_run('generate', '--temperature=nan', says=('--temp', 'number')),
  'generate: endless heat': of_run('generate', '--temperature=inf', says=('--temp', 'number')),
  'generate: a huge seed': of_run('generate', f'--seed={2**70}', says=('--seed', '2147483647')),
  'generate: an unknown task': of_run('generate', '--task=x', says=("'x'", 'there are kitchen')),
  'generate: a prompt for answers': of_run('generate', '--prompt=x', says=('--prompt', 'raw text')),
  'export: nowhere': of_run('export', says=('--out is missing', 'give --out=')),
  'export: out in use': of_run('export', '--out={here}/run', says=('{here}/run', 'a new folder')),
  'export: out below a file': of_run(
    'export', '--out={here}/a/b', says=('{here}/a', 'is a file'), files={'a': 'x'}
  ),
  'export: an unknown format': of_run('export', '--out=a', '--format=x', says=('=x', 'peft')),
  'export: an unknown task': of_run('export', '--out={here}/new', '--task=x', says=("'x'", 'home')),
  'export: no adapter': of_run(
    'export', '--out={here}/new', '--format=peft', says=('format is peft', 'use hf')
  ),
  'choose: an answer that there is not': Case(
    'choose', ['--old_data=maybe'], ('--old_data=maybe', 'give one of yes, no')
  ),
  'choose: no answer and no terminal': Case(
    'choose', ['--raw_text=no'], ('--task_told is missing', '--task_told=yes or --task_told=no')
  ),
  'doctor: no workdir': Case('doctor', [], ('--workdir is missing', 'give --workdir=')),
  'doctor: nothing there': Case(
    'doctor', ['--workdir={here}/no'], ('{here}/no', 'no results.json')
  ),
  'doctor: results that are none': Case(
    'doctor', ['--workdir={here}/run'], ('{here}/run/results.json', 'not'),
    {'run/results.json': b'{"method": 3'}, needs=('run',)
  ),
  'sweep: no workdir': Case('sweep', [], ('--workdir is missing', 'give --workdir=')),
  'sweep: no setting': of_run('sweep', '--values=1', says=('--setting is missing', 'give')),
  'sweep: no values': of_run('sweep', '--setting=train.l2', says=('--values is missing', 'give')),
  'sweep: an unknown setting': of_run(
    'sweep', '--setting=method.beta', '--values=1', says=("'method.beta'", 'config.json')
  ),
  'sweep: a part of a number': of_run(
    'sweep', '--setting=train.epochs', '--values=1.5', says=('1.5', 'whole number')
  ),
  'sweep: a value out of range': of_run(
    'sweep', '--setting=method.gamma', '--values=-1', says=('method.gamma', '-1')
  ),
  'report: no run': Case('report', [], ('--runs is missing', 'give --runs=')),
  'report: nothing there': Case('report', ['--runs={here}/no'], ('{here}/no', 'results.json')),
  'report: out is a file': Case(
    'report', ['--runs={here}/run', '--out={here}/a'],
    ('{here}/a', 'give another path'), {'a': 'x'}, needs=('run',),
  ),
}
CONFIGS = {
  'no such config': Case('train', ['--config=no.py', '--workdir={here}/new'], ("'no.py'", 'NAME')),
  'a folder as config': Case('train', ['--config={here}'], ('{here}', 'give FILE.py:METHOD')),
  'an empty config': config('', 'mine.py', 'get_config(method)'),
  'a config that is no Python': config('get_config = [', 'mine.py:1', 'the Python file of'),
  'a config of bytes': config(b'\xff\xfe\0\0', 'mine.py', 'the Python file of a config'),
  'a config with NUL': config('a = 1\0', 'mine.py', 'the Python file of'),
  'a config that raises': config('1 / 0', 'mine.py: ZeroDivisionError', 'quickstart.py'),
  'a config that leaves': config('import sys; sys.exit(0)', 'mine.py: SystemExit', 'quickstart.py'),
  'a config that speaks and raises': config('print("x"); int("a")', 'ValueError', 'quickstart.py'),
  'a config that runs itself': config(
    'import runpy; runpy.run_path(__file__)', 'RecursionError', 'quickstart.py'
  ),
  'a config that imports nothing': config('import nomodule', "'nomodule'", 'quickstart.py'),
  'get_config is no function': config('get_config = 3', 'mine.py', 'get_config(method)'),
  'get_config raises': config('def get_config(m=""): return {}["a"]', 'KeyError', 'quickstart'),
  'get_config takes nothing': config(
    'def get_config(): pass', 'mine.py: TypeError', 'quickstart.py', method=':seq'
  ),
  'get_config returns nothing': config('get_config = lambda m="": None', 'mine.py', 'Config'),
  'get_config returns a dict': config('get_config = lambda m="": {}', 'mine.py', 'jcl.config.Con'),
  'a config without a method': config(CONFIG + 'get_config = Config', 'mine.py', 'with a method'),
  'a config of the wrong type': config(
    CONFIG + 'get_config = lambda: Config(methods.settings("seq"), train=TrainConfig(epochs="9"))',
    "train.epochs is '9'", 'a whole number',
  ),
  'a config without a section': config(
    CONFIG + 'get_config = lambda: Config(methods.settings("seq"), train=None)',
    'train is None', 'a group of settings',
  ),
  'a config with an array': config(
    CONFIG + 'import numpy as np\n'
    'get_config = lambda: Config(methods.settings("seq"), train=TrainConfig(l1=np.ones(2)))',
    'train.l1 is', 'a number',
  ),
}
WORKDIRS = {
  'a run of another config': workdir(
    'train', {}, 'train.seed was 0, is 7', 'another workdir', more=['--config.train.seed=7']
  ),
  'a workdir of other things': train(
    says=('{here}/new', 'another workdir'), files={'new/thesis': 'x'}
  ),
  'a workdir that is a file': train(says=('{here}/new', 'another workdir'), files={'new': 'x'}),
  'a workdir below a file': Case(
    'train', [QUICKSTART, *SMALL, '--workdir={here}/a/new'], ('{here}/a', 'is a file'), {'a': 'x'}
  ),
  'a workdir of circles': train(
    says=('{here}/new', 'link is in the way'), files={'new': link('old'), 'old': link('new')}
  ),
  'a workdir of a long name': Case(
    'train', [QUICKSTART, '--workdir={here}/' + 'x' * 300], ('xxx', 'give a shorter name')
  ),
  'config.json is no JSON': workdir('train', {'run/config.json': '{'}, 'config.json', 'another'),
  'config.json is bytes': workdir('train', {'run/config.json': b'\xff'}, 'config.json', 'another'),
  'config.json is deep': workdir('train', {'run/config.json': DEEP}, 'config.json', 'another'),
  'config.json is a folder': workdir(
    'train', {'run/config.json': None, 'run/config.json/a': 'x'}, 'config.json', 'file is wanted'
  ),
  'evaluate: no run': Case('evaluate', ['--workdir={here}'], ('{here}', 'the workdir of a run')),
  'evaluate: below a file': Case(
    'evaluate', ['--workdir={here}/a/b'], ('{here}/a/b', 'is a file'), {'a': 'x'}
  ),
  'evaluate: a long name': Case(
    'evaluate', ['--workdir={here}/' + 'x' * 300], ('xxx', 'give a shorter name')
  ),
  'evaluate: no JSON': workdir('evaluate', {'run/config.json': '{'}, 'config.json', 'another'),
  'evaluate: a list': workdir('evaluate', {'run/config.json': '[]'}, 'config.json', 'another'),
  'evaluate: a deep one': workdir('evaluate', {'run/config.json': DEEP}, 'config.json', 'another'),
  'evaluate: a method unknown': workdir(
    'evaluate', {'run/config.json': changed(method__name='x')},
    'config.json', "nothing is called 'x'",
  ),
  'evaluate: a function replaced': workdir(
    'evaluate', {'run/config.json': changed(method__check=1)}, 'config.json', 'another'
  ),
  'evaluate: a word for a number': workdir(
    'evaluate', {'run/config.json': changed(train__epochs='x')},
    'config.json: train.epochs', 'a whole number',
  ),
  'evaluate: no number': workdir(
    'evaluate', {'run/config.json': changed(train__l1=float('nan'))}, 'train.l1', 'range'
  ),
  'evaluate: a path with NUL': workdir(
    'evaluate', {'run/config.json': changed(stream__path='a\0b')}, 'stream.path', 'text'
  ),
  'evaluate: no section': workdir(
    'evaluate', {'run/config.json': changed(stream=None)}, 'config.json', 'another'
  ),
  'evaluate: no snapshot': workdir(
    'evaluate', {'run/checkpoints': None}, '{here}/run', 'train it first'
  ),
  'evaluate: a file for snapshots': workdir(
    'evaluate', {'run/checkpoints': replaced('x')}, '{here}/run', 'train it'
  ),
  'evaluate: snapshots in circles': workdir(
    'evaluate', {'run/checkpoints': replaced(link('checkpoints'))}, '{here}/run', 'train it'
  ),
  'a log that is a folder': workdir(
    'train', {'run/metrics.jsonl': None, 'run/metrics.jsonl/a': 'x'}, 'metrics.jsonl', 'a file is'
  ),
  'export: no snapshot': workdir(
    'export', {'run/checkpoints': None}, '{here}/run', 'train it first', more=['--out={here}/new']
  ),
  'a results.json that is no JSON': results('{', 'results.json', 'leave this run out'),
  'a results.json of bytes': results(b'\xff', 'results.json', 'leave this run out'),
  'a deep results.json': results(DEEP, 'results.json', 'leave this run out'),
  'a results.json that is a list': results('[]', 'results.json', 'leave this run out'),
  'an empty results.json': results('{}', 'results.json', 'leave this run out'),
  'a results.json without a matrix': results(
    changed(matrix=None), 'results.json', 'leave this run out'
  ),
  'a matrix of words': results(changed(matrix=[['a']]), 'results.json', 'leave this run out'),
  'seconds that are no number': results(
    changed(seconds={'train': float('nan')}), 'seconds.train', 'leave this run out'
  ),
  'metrics that are none': results(changed(metrics=3), 'results.json', 'leave this run out'),
}
# fmt: on
CASES = FLAGS | CONFIGS | WORKDIRS
