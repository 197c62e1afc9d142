"""The embedded stream is a real exercise: novel tests, no leak, not solvable by word overlap."""

import collections
import itertools

import pytest

from jcl import streams
from jcl.config import StreamConfig
from jcl.streams import synthetic

SEEDS = (-1, 0, 1, 2)


@pytest.fixture(scope='module', params=SEEDS)
def stream(request):
  return streams.load(StreamConfig(order_seed=request.param))


def texts(stream, *splits):
  return [e.text for t in stream.tasks for split in splits for e in getattr(t, split)]


def test_size(stream):
  words = {w for text in texts(stream, 'train', 'dev', 'test') for w in text.split()}
  assert len(stream) >= 5
  assert len(stream.classes) >= 20
  assert len({w for text in texts(stream, 'train') for w in text.split()}) >= 218
  assert len(words) >= 250
  print(f'{len(stream)} tasks, {len(stream.classes)} intents, {len(words)} distinct words')


def test_every_intent_has_its_share_in_every_split(stream):
  for task in stream.tasks:
    assert len(task.classes) == 4
    for split, count in (('train', 120), ('dev', 8), ('test', 24)):
      labels = collections.Counter(e.label for e in getattr(task, split))
      assert labels == dict.fromkeys(task.classes, count)


def test_no_text_stands_twice_nor_in_two_splits(stream):
  for a, b in itertools.combinations(('train', 'dev', 'test'), 2):
    assert not set(texts(stream, a)) & set(texts(stream, b))
  everything = texts(stream, 'train', 'dev', 'test')
  assert len(set(everything)) == len(everything)
  assert not any(stream.overlap.values())


def ground_truth(text):
  """(frame, object) of an utterance, found by trying every frame and object of the grammar."""
  found = set()
  things = [(o, v) for old, new, intents in synthetic.DOMAINS.values()
            for o in (*old, *new) for verbs in intents.values() for v in verbs]  # fmt: skip
  things = [(o, v) for o, v in things if f' {o}' in f' {text} ' and f'{v} ' in text]
  for frame in (*synthetic.FRAMES, *synthetic.NEW_FRAMES):
    for (thing, verb), time in itertools.product(things, synthetic.TIMES):
      head, _, tail = frame.format(verb=verb, object='|', time=time).partition('|')
      if text.startswith(head) and text.endswith(tail):
        middle = text[len(head) : len(text) - len(tail)].split(' ', 1)
        if middle[0] in ('the', 'my', 'that', 'this') and len(middle) == 2:
          rest = middle[1]
          if rest == thing or (
            rest.endswith(f' {thing}') and rest.split()[0] in synthetic.ADJECTIVES
          ):
            found.add((frame, thing))
  return found


@pytest.mark.parametrize('seed', [-1, 1])
def test_a_third_of_the_tests_has_an_object_or_frame_never_trained(seed):
  stream = streams.load(StreamConfig(order_seed=seed))
  parsed = {text: ground_truth(text) for text in texts(stream, 'train', 'test')}
  assert all(parsed.values())
  trained = [parsed[text] for text in texts(stream, 'train')]
  frames = {f for found in trained for f, _ in found}
  objects = {o for found in trained for _, o in found}
  assert frames <= set(synthetic.FRAMES)
  for task in stream.tasks:
    novel = [all(f not in frames or o not in objects for f, o in parsed[e.text]) for e in task.test]
    assert sum(novel) * 3 == len(task.test)
  kinds = collections.Counter(
    (f not in frames, o not in objects)
    for text in texts(stream, 'test') for f, o in list(parsed[text])[:1]
  )  # fmt: skip
  assert kinds[True, False] > 0
  assert kinds[False, True] > 0


def test_the_nearest_neighbour_by_word_overlap_is_often_wrong(stream):
  """Jaccard similarity of word sets, over all training texts of all tasks."""
  train = [(frozenset(e.text.split()), e.label) for t in stream.tasks for e in t.train]
  tests = [(set(e.text.split()), e.label) for t in stream.tasks for e in t.test]
  right = 0
  for words, label in tests:
    near = max(train, key=lambda x: len(words & x[0]) / len(words | x[0]))
    right += near[1] == label
  print(f'nearest neighbour by word overlap: {right / len(tests):.3f}')
  assert 1 / len(stream.classes) < right / len(tests) < 0.7


def test_the_same_seed_is_the_same_stream_and_another_is_not():
  load = lambda seed: streams.load(StreamConfig(order_seed=seed))
  assert load(1) == load(1)
  one, two = load(1), load(2)
  assert texts(one, 'train') != texts(two, 'train')
  assert set(texts(one, 'test')) != set(texts(two, 'test'))
  orders = {tuple(t.name for t in load(seed).tasks) for seed in SEEDS}
  assert len(orders) > 1
  assert [t.name for t in load(-1).tasks] == list(synthetic.DOMAINS)
