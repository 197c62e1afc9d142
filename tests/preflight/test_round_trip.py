"""Before a run: what the tokenizer makes of answers and inputs, and which classes are refused."""

import json
from types import SimpleNamespace

import pytest
from support import tokenizer_kinds
from support.raw_streams import rows, stream

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.preflight import checks, page
from jcl.preflight.footprint import Footprint
from jcl.preflight.round_trip import changed_inputs, letters, not_given_back, round_trip
from jcl.preflight.split_stats import counted
from jcl.streams.build import build
from jcl.streams.raw import RawTask

ROOM = Footprint({'total': 100}, 0, {'total': 100}, whole=True)


def classed(*labels, texts=('one', 'two', 'three')):
  """A stream of one task with a few rows of each label."""
  train = [(f'{text} {i}', label) for i, label in enumerate(labels) for text in texts]
  test = [(f'test {i}', label) for i, label in enumerate(labels)]
  return build(stream(RawTask('t', rows('a', *train), rows('b', *test))), StreamConfig())


def free(*answers):
  """A stream of one task whose rows have free answers."""
  asked = rows('a', *((f'question {i}', 'x') for i in range(len(answers))))
  made = [r._replace(label=None, answer=a) for r, a in zip(asked, answers, strict=True)]
  tests = [row._replace(text=f'test {row.text}', where=f'b:{i}') for i, row in enumerate(made)]
  return build(stream(RawTask('t', made, tests)), StreamConfig())


def checkup(made, kind, vocabulary=None, text_format='plain', **how):
  words = vocabulary or [s for e in made.examples for s in (e.text, e.answer)]
  text = tokenizer_kinds.text(kind, words, text_format, **how)
  text.prepare(made.examples)
  run = SimpleNamespace(
    stream=made, text=text, task_id_given=False, score='accuracy',
    config=SimpleNamespace(train=SimpleNamespace(steps=0)),
  )  # fmt: skip
  return checks.Checkup(run, tuple(counted(made, text, False)), ROOM)


REFUSED = {
  'unknown emoji': ('wordpiece', ('😀', '😁'), ['plain words']),
  'accents': ('uncased', ('résumé', 'resume', 'other'), None),
  'width': ('unigram', ('ＡＢ', 'AB'), None),
  'spaces': ('wordpiece', ('天气', '天 气'), None),
  'unknown words': ('word', ('alpha', 'beta'), ['plain words']),
}


@pytest.mark.parametrize('text_format', ['plain', 'lamol'])
@pytest.mark.parametrize('name', REFUSED)
def test_classes_that_come_back_alike_are_refused_by_name(name, text_format):
  kind, labels, vocabulary = REFUSED[name]
  found = checkup(classed(*labels), kind, vocabulary, text_format)
  with pytest.raises(UserError) as refused:
    found.round_trip.refuse()
  for words in (*labels[:2], 'come back', 'backbone.tokenizer=bpe'):
    assert words in str(refused.value)
  assert 'other' not in str(refused.value).split('come back')[0]
  if name != 'unknown words':  # those are refused for what most of the split is
    with pytest.raises(UserError, match='come back'):
      checks.refuse(found)


@pytest.mark.parametrize('name', REFUSED)
def test_a_head_tells_apart_what_a_tokenizer_does_not(name):
  kind, labels, vocabulary = REFUSED[name]
  found = checkup(classed(*labels), kind, vocabulary, 'class')
  found.round_trip.refuse()
  assert found.round_trip.answers == ()
  assert found.round_trip.lines() == []


@pytest.mark.parametrize('kind', ['byte_bpe', 'llama_bpe'])
def test_a_tokenizer_of_bytes_changes_no_label(kind):
  labels = ('天气', '天 气', '\u09df', '\u09af', '😀', '😁', 'résumé', 'resume', 'ＡＢ', 'AB')
  found = checkup(classed(*labels), kind).round_trip
  found.refuse()
  assert (found.changed, found.unknown, found.alike, found.lines()) == ([], [], [], [])
  assert [said.answer for said in found.answers] == list(labels)


def test_changed_labels_are_counted_and_named_as_the_user_wrote_them():
  found = checkup(classed('天气', '音乐', 'data_loss'), 'wordpiece')
  (share, line), *others = found.round_trip.lines()
  assert share == pytest.approx(2 / 3)
  assert line.startswith("2 of 3 labels come back from the tokenizer changed ('天气' as '天 气', ")
  assert others == []
  assert line in checks.warnings(found)
  section = page.tokens(found)
  assert section.values['answers'] == {
    'distinct': 3, 'changed': 2, 'unknown': 0, 'alike': 0, 'groups': [],
    'examples': [['天气', '天 气'], ['音乐', '音 乐']],
  }  # fmt: skip
  assert json.loads(page.as_json([section]))['tokens'] == section.values
  assert "'天气' comes back as '天 气'" in page.as_text([section])


def test_free_answers_are_counted_and_never_refused():
  made = free('boil water\nadd the egg', 'boil water', 'US', 'us', 'b\u202eoil')
  found = checkup(made, 'word').round_trip
  found.refuse()
  lines = [line for _, line in found.lines()]
  assert lines[0].startswith(
    "1 of 5 distinct answers come back from the tokenizer changed ('boil water\\nadd the egg' as "
  )
  assert 'backbone.tokenizer=bpe' in lines[0]
  assert lines[1].startswith('2 of 5 distinct answers come back from the tokenizer like another')
  assert "('US', 'us')" in lines[1]
  assert len(lines) == 2
  assert all(line.isprintable() for line in lines)
  unknown = checkup(made, 'word', ['boil', 'the egg', 'us', 'question test']).round_trip
  count, line = next((n, line) for n, line in unknown.lines() if 'does not know' in line)
  assert count == 4 / 5
  assert 'they are never right' in line


def test_inputs_that_come_back_changed_are_counted():
  text = tokenizer_kinds.text('uncased', ['some plain words', 'cafe'])
  inputs = ['plain words', 'Plain words', ' plain  words', 'café', 'café 😀', 'plain\x07 words']
  changed, lossy = changed_inputs(text, [s.strip() for s in inputs])
  assert changed == 5
  assert lossy == 2  # the accent and the bell; what is unknown is counted as that
  assert letters(' A\tb') == letters('ab')
  made = classed('a', 'b', texts=('One', 'Tẃo', 'three'))
  found = checkup(made, 'uncased')
  split = found.splits[0]
  assert (split.changed, split.lossy) == (4, 2)
  assert any(line.startswith('rows have letters in their input') for line in checks.warnings(found))
  assert page.tokens(found).values['splits'][0]['changed'] == 4


@pytest.mark.parametrize('text_format', ['plain', 'lamol', 'class'])
@pytest.mark.parametrize('kind', tokenizer_kinds.KINDS)
def test_inputs_that_a_row_gives_back_are_not_read_again(kind, text_format):
  texts = ['plain words', 'Plain words', 'café', 'words plain ' * 40 + 'end']
  made = classed('a', 'b', texts=texts)
  text = tokenizer_kinds.text(kind, [*texts[:-1], 'a b 0 1 end'], text_format)
  text.max_length = 32
  text.prepare(made.examples)
  assert text.cut
  train = made.tasks[0].train
  alone = {t for t in (e.text for e in train) if changed_inputs(text, [t])[0]}
  rows = [[text.first_row(e) for e in train]]
  again = set(not_given_back(text, [train], rows))
  assert again >= alone
  if text_format != 'plain':  # there the tokenizer may change the words of the template
    assert again - alone <= {e.text for e in train if e.number in text.cut}


def test_rows_that_special_tokens_leave_out_are_counted():
  found = checkup(classed('a', 'b'), 'byte_bpe')
  found.parts.text.dropped = 2
  line = 'left out for a special token of the tokenizer: 2 rows'
  assert any(warning.startswith(line) for warning in checks.warnings(found))


def test_raw_text_has_no_answers():
  text = tokenizer_kinds.text('byte_bpe', ['a'])
  text.text_format = 'packed'
  assert round_trip(classed('a', 'b'), text).answers == ()
