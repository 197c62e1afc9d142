"""The built-in stream: short utterances in five domains, four intents each, made from a seed.

An utterance is a frame around a verb, an object and, in some, an adjective and a time. The verb and
the domain of the object decide the intent. Frames, adjectives and times say nothing about it, so
texts that share most words often mean different things. A third of the test texts have an object or
a frame that no training text has. The words were written for this project; nothing is downloaded.
"""

import numpy as np

from jcl.config import StreamConfig
from jcl.seeds import generator
from jcl.streams.raw import RawRow, RawStream, RawTask, permutation

Words = tuple[str, ...]

TRAIN, DEV, TEST = 120, 8, 24  # utterances of each intent

FRAMES: Words = (
  '{verb} {object}', 'please {verb} {object} {time}', 'can you {verb} {object}',
  'i want to {verb} {object} {time}', 'could you {verb} {object} for me',
  'help me {verb} {object} {time}', 'i need you to {verb} {object}',
  'it would be great to {verb} {object} {time}', 'hey there just {verb} {object}',
  '{time} i have to {verb} {object}', 'is it possible to {verb} {object}',
  'we should {verb} {object} {time}',
)  # fmt: skip
NEW_FRAMES: Words = (
  'kindly {verb} {object} {time}',
  'hey could you please {verb} {object}',
  'it is possible we have to {verb} {object} {time}',
)
ADJECTIVES = (
  'old', 'new', 'big', 'small', 'blue', 'red', 'second', 'first', 'usual', 'other', 'spare', 'nice',
)  # fmt: skip
TIMES = (
  'now', 'today', 'tomorrow', 'tonight', 'later', 'soon', 'this week', 'right away', 'on monday',
  'after lunch', 'before noon', 'at once',
)  # fmt: skip

# domain: (objects, objects that only tests have, {intent: verbs})
DOMAINS: dict[str, tuple[Words, Words, dict[str, Words]]] = {
  'travel': (
    ('flight', 'hotel room', 'train seat', 'rental car', 'ferry cabin', 'night bus', 'airport taxi',
     'museum tour', 'ski pass', 'camp site', 'city cruise', 'boat trip'),
    ('balloon ride', 'safari lodge', 'tram ticket'),
    {'book': ('book', 'reserve', 'arrange', 'secure'),
     'cancel_trip': ('cancel', 'drop', 'undo', 'abandon'),
     'change_date': ('move', 'reschedule', 'postpone', 'delay'),
     'trip_price': ('price', 'quote', 'cost', 'estimate')},
  ),
  'bank': (
    ('card', 'savings account', 'loan', 'mortgage', 'credit line', 'joint account', 'pension fund',
     'student grant', 'business account', 'gold deposit', 'share portfolio', 'foreign wallet'),
    ('bond ladder', 'holiday fund', 'trust deed'),
    {'open_account': ('open', 'start', 'create', 'found'),
     'block': ('freeze', 'block', 'lock', 'suspend'),
     'balance': ('check', 'show', 'read', 'view'),
     'close_account': ('close', 'end', 'terminate', 'dissolve')},
  ),
  'kitchen': (
    ('soup', 'chicken pie', 'fried rice', 'bean stew', 'lemon cake', 'fresh pasta', 'onion bread',
     'fish curry', 'green salad', 'apple tart', 'corn porridge', 'beef noodles'),
    ('plum jam', 'goat cheese', 'mint sorbet'),
    {'recipe': ('cook', 'prepare', 'bake', 'make'),
     'calories': ('count', 'measure', 'weigh', 'analyse'),
     'order_food': ('order', 'buy', 'fetch', 'get'),
     'cook_time': ('time', 'watch', 'pace', 'clock')},
  ),
  'music': (
    ('song', 'jazz list', 'album', 'opera', 'radio show', 'vinyl record', 'drum solo',
     'folk ballad', 'piano concert', 'dance mix', 'choir hymn', 'guitar riff'),
    ('flute duet', 'rock anthem', 'film score'),
    {'play': ('play', 'stream', 'spin', 'hear'),
     'skip': ('skip', 'pass', 'jump', 'omit'),
     'like_song': ('like', 'favour', 'rate', 'praise'),
     'louder': ('boost', 'amplify', 'raise', 'blast')},
  ),
  'home': (
    ('lights', 'heater', 'front door', 'garage', 'alarm', 'robot vacuum', 'water boiler', 'fan',
     'garden pump', 'window blinds', 'oven hood', 'doorbell'),
    ('pool cover', 'attic lamp', 'gate motor'),
    {'switch_on': ('activate', 'wake', 'power', 'enable'),
     'switch_off': ('disable', 'silence', 'halt', 'kill'),
     'status': ('inspect', 'query', 'probe', 'monitor'),
     'repair': ('fix', 'mend', 'repair', 'patch')},
  ),
}  # fmt: skip


def read(config: StreamConfig) -> RawStream:
  """Returns the stream; `config.order_seed` decides its texts and the order of its tasks."""
  seed = max(config.order_seed, 0)
  names = [list(DOMAINS)[i] for i in permutation(len(DOMAINS), config.order_seed)]
  return RawStream('synthetic', [_task(name, seed) for name in names])


def _task(name: str, seed: int) -> RawTask:
  """Returns the task of one domain; no text stands in two splits."""
  objects, new_objects, intents = DOMAINS[name]
  splits: dict[str, list[RawRow]] = {'train': [], 'dev': [], 'test': []}
  for number, (intent, verbs) in enumerate(intents.items()):
    random = generator(seed, f'synthetic {name}', number)
    seen: set[str] = set()
    for split, count, novel in (
      ('train', TRAIN, 0), ('dev', DEV, 0), ('test', TEST - TEST // 3, 0), ('test', TEST // 3, 1)
    ):  # fmt: skip
      for i in range(count):
        frames, things = FRAMES, objects
        if novel:  # a new frame and a new object in turn
          frames, things = (NEW_FRAMES, objects) if i % 2 else (FRAMES, new_objects)
        text = _utterance(random, frames, verbs, things, seen)
        where = f'{name}/{split}[{len(splits[split])}]'
        splits[split].append(RawRow(where, text, label=intent))
  return RawTask(name, splits['train'], splits['test'], splits['dev'])


def _utterance(
  random: np.random.Generator, frames: Words, verbs: Words, objects: Words, seen: set[str]
) -> str:
  """Returns an utterance that is not in `seen`, and adds it to `seen`."""

  def pick(items: Words) -> str:
    return items[random.integers(len(items))]

  while True:
    words = [pick(('the', 'my', 'that', 'this')), pick(objects)]
    if random.random() < 0.5:
      words.insert(1, pick(ADJECTIVES))
    text = pick(frames).format(verb=pick(verbs), object=' '.join(words), time=pick(TIMES))
    if text not in seen:
      seen.add(text)
      return text
