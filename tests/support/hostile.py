"""Hostile text, bytes and JSON for the tests of readers, and what a refusal must be like."""

import json
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import strategies as st

from jcl.errors import UserError

PIECES = (
  '\r', '\n', '\r\n', '\u2028', '\u2029', '\x0b', '\x0c', '\x1c', '\x85', '\ufeff', '\0', '\x1b[2J',
  '"', '""', ',', '\t', '{', '}', '[', ']', ':', '\\', '\\u', '\\ud83d', '😀', 'e\u0301', 'שלום',
  '\u202e', '\u200b', 'NaN', '1e999', '-0', '9' * 5000, '[' * 3000, ' ', 'text', 'label', 'a', 'b',
  '{"text": "a", "label": "b"}', 'text,label\n', 'text\tlabel\n', 'a,b\n', 'a\tb\n', '"a\nb",c\n',
  '{"text": "\u2028😀", "label": 1}\n', '{"text": "x", "text": "y", "label": "z"}',
)  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map(''.join)
ENCODED = st.builds(
  lambda text, code, mark: mark + text.encode(code, 'ignore'),
  TEXT,
  st.sampled_from(('utf-8', 'utf-8', 'utf-8', 'utf-16', 'latin-1')),
  st.sampled_from((b'', b'', b'', b'\xef\xbb\xbf', b'\xff', b'\xed\xa0\x80')),
)
BYTES = ENCODED | st.binary(max_size=60)
LEAVES = (
  st.none() | st.booleans() | st.integers() | st.floats() | TEXT
  | st.sampled_from((2**31, 2**70, -1, 0, 1e308, 1e-320, '', '../x', '(a+)+', 'a\0b', '\ud800'))
)  # fmt: skip
JSON = st.recursive(
  LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXT, x, max_size=3), max_leaves=4
)


def many(count):
  """Returns settings for `count` examples, the same in every run."""
  return hypothesis.settings(
    max_examples=count, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )  # fmt: skip


@st.composite
def mutated(draw, value, times=2):
  """A JSON value with some parts replaced, taken out, or put in."""
  value = json.loads(json.dumps(value))
  for _ in range(draw(st.integers(1, times))):
    place, key = {'': value}, ''
    while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 4)):
      place = place[key]
      key = draw(st.sampled_from(sorted(place)) if isinstance(place, dict)
                 else st.integers(0, len(place) - 1))  # fmt: skip
    if key != '' and draw(st.integers(0, 4)) == 0:
      del place[key]
    else:
      place[key] = draw(JSON)
    value = place[''] if key == '' else value
  return value


@st.composite
def damaged(draw, data, head=10**9):
  """Bytes of which some are others, most of them near the start, or the rest is missing."""
  data = bytearray(data)
  for _ in range(draw(st.integers(0, 4))):
    at = draw(st.integers(0, min(len(data), head) - 1))
    new = draw(st.binary(min_size=1, max_size=8) | st.sampled_from((b'\xff' * 8, bytes(8))))
    data[at : at + len(new)] = new
  if draw(st.booleans()):
    data = data[: draw(st.integers(0, len(data)))]
  return bytes(data)


def outcome(read: Callable[[], Any], *names: str) -> tuple[Any, str]:
  """Returns a reader's result, or its refusal: one line that names one of these."""
  try:
    return read(), ''
  except UserError as error:
    said = str(error)
  assert said
  assert '\n' not in said
  assert any(name in said for name in names), said
  return None, said
