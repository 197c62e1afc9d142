"""Small streams with faults, and the parts of runs on them, for tests of what a run says first."""

from types import SimpleNamespace

from jcl.backbones.tokenizers import add_tokens, word_tokenizer
from jcl.batching.text_formats import Text, added_tokens
from jcl.config import StreamConfig
from jcl.preflight import checks, footprint
from jcl.preflight.split_stats import counted
from jcl.step import sharding
from jcl.streams.build import build
from jcl.streams.raw import RawTask
from support.raw_streams import rows, stream

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
