"""Raw text as blocks, and how new and old blocks mix: counted token by token."""

import dataclasses
import gc
import json
import os

import numpy as np
import pytest
from oracles import pretraining
from support import tiny
from support.packed import LENGTH, packed

from jcl.backbones.tokenizers import word_tokenizer
from jcl.batching import packed_text
from jcl.batching.packed_text import PackedText
from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.storage.atomic import whole_file
from jcl.streams import hub, load
from jcl.streams.build import build
from jcl.streams.raw import RawRow, RawStream, RawTask
from jcl.streams.records import Record
from jcl.streams.references import References
from jcl.streams.stream import Example, Lazy


def ids_of(text, documents):
  return [text.tokenizer.encode(d.text, add_special_tokens=False).ids for d in documents]


# Blocks.


@pytest.mark.parametrize('bos', [False, True])
@pytest.mark.parametrize('length', [3, 7, 8, 1000])
def test_every_token_but_the_first_is_a_target_once(bos, length, tmp_path):
  stream, text, before = packed(tmp_path, bos, length)
  for task, documents in zip(stream.tasks, before.tasks, strict=True):
    for split in ('train', 'dev', 'test'):
      blocks = getattr(task, split)
      ids = ids_of(text, getattr(documents, split))
      whole = pretraining.corpus(ids, text.eos, text.bos)
      rows = [row for e in blocks for row in text.rows(e)]
      assert [len(r.tokens) for r in rows[:-1]] == [length] * (len(rows) - 1)
      assert 1 <= len(rows[-1].tokens) <= length
      assert np.concatenate([r.tokens for r in rows]).tolist() == whole[:-1]
      wanted = np.concatenate([r.wanted for r in rows]).tolist()
      assert wanted == [t for t in whole[1:] if t != text.bos]
      assert len(wanted) == sum(map(len, ids)) + len(ids) == blocks.targets  # words and ends
      for i, row in enumerate(rows):  # what is wanted is what comes next, over the border too
        assert row.wanted.tolist() == [whole[i * length + p + 1] for p in row.targets]
        assert text.size(blocks[i]) == len(row.tokens)


def test_blocks_are_numbered_in_sequence_and_found_by_reference(tmp_path):
  stream, text, _ = packed(tmp_path)
  assert [e.number for e in stream.examples] == list(range(len(stream.examples)))
  for task in stream.tasks:
    for example in (*task.train, *task.dev, *task.test):
      assert example.task == task.index
      assert stream.example(example.reference) == example
      (old,), (new,) = text.rows(example, replay=True), text.rows(example)
      assert old.replay
      assert not new.replay
      assert old.number == new.number == 2 * example.number
  with pytest.raises(KeyError, match='task 0 of the stream has no example'):
    stream.example((0, stream.tasks[1].train[0].number))
  blocks = stream.tasks[1].train
  assert blocks[-1] == blocks[len(blocks) - 1] == list(blocks)[-1]
  assert blocks[1:3] == [blocks[1], blocks[2]]
  spans = [[t.index, t.train[0].number, len(t.train)] for t in stream.tasks]
  assert list(References(spans)) == [e.reference for t in stream.tasks for e in t.train]
  assert list(References([])) == []


@pytest.mark.parametrize('bos', [False, True])
def test_many_documents_are_joined_over_the_batches_of_the_tokenizer(bos, tmp_path, monkeypatch):
  whole, _, _ = packed(tmp_path / 'a', bos=bos)
  monkeypatch.setattr(packed_text, 'DOCUMENTS', 2)
  parts, _, _ = packed(tmp_path / 'b', bos=bos)
  for one, other in zip(whole.tasks, parts.tasks, strict=True):
    np.testing.assert_array_equal(one.train.tokens, other.train.tokens)


@pytest.mark.parametrize('token', ['<eos>', '<unk>'])
def test_a_special_token_in_a_text_is_refused_by_document(token, tmp_path):
  stream = tiny.stream()
  tokenizer, special = word_tokenizer([e.text for e in stream.examples])
  text = PackedText(tmp_path, tokenizer, special, stream.template, LENGTH)
  bad = [Example(0, 'the lamp', '', 0), Example(1, f'the {token} lamp', '', 0, name='f:2')]
  with pytest.raises(UserError, match=f'document f:2: the text contains {token}, a special token'):
    text.add(bad, 0, 'bad')
  assert not list(tmp_path.iterdir())


def test_tokens_that_an_earlier_jcl_kept_of_an_unknown_token_are_not_used(tmp_path):
  tokenizer, special = word_tokenizer(['the lamp'])
  made = lambda: PackedText(tmp_path, tokenizer, special, '{x} {y}', LENGTH)
  documents, before = [Example(0, 'the <unk> lamp', '', 0)], made()
  before.unknown = before.encoder.unknown = None
  assert before.add(documents, 0, 'x').tokens.tolist().count(made().unknown) == 1
  with pytest.raises(UserError, match='contains <unk>, a special token'):
    made().add(documents, 0, 'x')


def test_a_special_token_in_a_document_is_read_as_text_or_drops_it(tmp_path):
  stream = tiny.stream()
  tokenizer, special = word_tokenizer([*(e.text for e in stream.examples), 'the < eos > lamp'])
  documents = [Example(0, 'the lamp', '', 0), Example(1, 'the <eos> lamp', '', 0, name='f:2')]
  made = lambda policy: PackedText(
    tmp_path / policy, tokenizer, special, stream.template, LENGTH, policy
  )
  text = made('text')
  tokens = list(text.add(documents, 0, 'x').tokens)
  assert tokens.count(special.eos) == 3  # one before the first document, one after each
  assert len(tokens) > 3 + 2 * 2
  assert text.dropped == 0
  text = made('drop')
  assert list(text.add(documents, 0, 'x').tokens).count(special.eos) == 2
  assert text.dropped == 1
  with pytest.raises(UserError, match=r'^x: every document holds a special token'):
    text.add(documents[1:], 0, 'x')


# The file.


def file_of(blocks):
  return blocks.tokens.filename


def test_a_corpus_is_tokenised_once(tmp_path, monkeypatch):
  stream, _, _ = packed(tmp_path)
  first = sorted(tmp_path.iterdir())
  assert len(first) == 9
  assert not stream.tasks[0].train.tokens.flags.writeable
  monkeypatch.setattr(PackedText, 'encode_all', None)  # whoever tokenises again falls
  again, _, _ = packed(tmp_path)
  assert sorted(tmp_path.iterdir()) == first
  for one, other in zip(stream.tasks, again.tasks, strict=True):
    assert isinstance(other.train.tokens, np.memmap)
    np.testing.assert_array_equal(one.train.tokens, other.train.tokens)


def test_other_words_and_other_tokenizers_have_files_of_their_own(tmp_path):
  names = lambda: {f.name for f in tmp_path.iterdir()}
  packed(tmp_path)
  first = names()
  packed(tmp_path, more=['another'])
  assert len(names()) == 18
  packed(tmp_path, bos=True)
  assert len(names()) == 27
  packed(tmp_path, length=LENGTH + 1)  # blocks are cut when they are read
  assert len(names()) == 27
  assert first < names()


def truncate(path, other):
  os.truncate(path, os.path.getsize(path) - 4)


def truncate_within_a_token(path, other):
  os.truncate(path, os.path.getsize(path) - 2)


def truncate_to_the_header(path, other):
  os.truncate(path, packed_text.HEADER.size)


def truncate_within_the_header(path, other):
  os.truncate(path, 20)


def lengthen(path, other):
  with open(path, 'ab') as file:
    file.write(bytes(4))


def replace_by_another_corpus(path, other):
  with open(other, 'rb') as source:
    content = source.read()
  with open(path, 'wb') as file:
    file.write(content)


def flip_a_bit(path, other):
  with open(path, 'r+b') as file:
    file.seek(80)
    byte = file.read(1)[0]
    file.seek(80)
    file.write(bytes([byte ^ 1]))


def write_something_else(path, other):
  with open(path, 'wb') as file:
    file.write(b'not a corpus at all, but long enough for a header and then some' * 4)


@pytest.mark.parametrize(
  'damage',
  [
    truncate, truncate_within_a_token, truncate_to_the_header, truncate_within_the_header, lengthen,
    replace_by_another_corpus, flip_a_bit, write_something_else,
  ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_made_again(damage, tmp_path):
  stream, _, _ = packed(tmp_path)
  wanted = np.array(stream.tasks[0].train.tokens)
  path, other = (file_of(stream.tasks[i].train) for i in (0, 1))
  del stream
  damage(path, other)
  again, _, _ = packed(tmp_path)
  np.testing.assert_array_equal(again.tasks[0].train.tokens, wanted)
  assert len(list(tmp_path.iterdir())) == 9


def test_a_kill_while_it_is_written_leaves_no_file(tmp_path, monkeypatch):
  real = PackedText.encode_all

  def dying(self, texts, names):
    if 't1' in names[0] or 'train-1' in names[0]:
      raise KeyboardInterrupt
    return real(self, texts, names)

  monkeypatch.setattr(PackedText, 'encode_all', dying)
  with pytest.raises(KeyboardInterrupt):
    packed(tmp_path)
  assert len(list(tmp_path.iterdir())) == 3  # those of the first task
  monkeypatch.undo()
  packed(tmp_path)
  assert len(list(tmp_path.iterdir())) == 9


def test_two_may_write_the_same_file_at_once(tmp_path):
  path = tmp_path / 'x'
  with whole_file(path) as one, whole_file(path) as other:
    one.write(b'one')
    other.write(b'other')
  assert path.read_bytes() in (b'one', b'other')
  assert [f.name for f in tmp_path.iterdir()] == ['x']


# Documents.


def manifest(folder, fields, **contents):
  for name, content in contents.items():
    (folder / name.replace('_', '.')).write_text(content)
  (folder / 'manifest.json').write_text(json.dumps(fields))
  return StreamConfig(name='files', path=str(folder))


def test_texts_need_no_label_and_a_txt_file_is_one_document(tmp_path):
  fields = {'tasks': [{'name': 'a', 'train': 'a.jsonl', 'test': 'b.txt'}]}
  config = manifest(
    tmp_path, fields, a_jsonl='{"text": "one two"}\n{"text": "three"}\n',
    b_txt='\nfour\n\nfive <six>\n',
  )  # fmt: skip
  stream = load(config, targets=False)
  (task,) = stream.tasks
  assert [e.text for e in task.train] == ['one two', 'three']
  assert [(e.text, e.answer, e.label) for e in task.test] == [('four\n\nfive <six>', '', -1)]
  assert stream.classes == task.classes == ()
  with pytest.raises(UserError, match='name the column of the classes'):
    load(config)


def test_a_data_set_on_the_disk_is_not_read_into_memory(tmp_path):
  """A data set gives what a file gives, and no row outlives the block it was tokenised in."""
  texts = [f'one {i} {"two " * (i % 5)}' for i in range(700)]
  datasets = pytest.importorskip('datasets')
  datasets.Dataset.from_dict({'text': texts, 'other': texts}).save_to_disk(str(tmp_path / 'set'))
  lines = ''.join(json.dumps({'text': t}) + '\n' for t in texts)
  made = []
  for train in ({'hf': './set'}, 'a.jsonl'):
    fields = {'tasks': [{'name': 'a', 'train': train, 'test': 'b.txt'}]}
    config = manifest(tmp_path, fields, a_jsonl=lines, b_txt='three')
    before = alive({*texts, 'three'})  # what other tests have left
    made.append(load(config, targets=False))
    if isinstance(train, dict):
      assert alive({*texts, 'three'}) - before == 1  # the text that is tested on
      first = load(dataclasses.replace(config, max_train_per_task=5), targets=False)
      assert [e.text for e in first.tasks[0].train] == [t.strip() for t in texts[:5]]
      del first
  lazy, whole = (stream.tasks[0].train for stream in made)
  assert [e.number for e in lazy] == list(range(700))
  under = lazy
  while isinstance(under, Lazy):
    under = under._items
  assert isinstance(under, hub.Mapped)
  assert [(e.number, e.text) for e in lazy] == [(e.number, e.text) for e in whole]
  assert [lazy[699], lazy[-1], *lazy[3:5]] == [list(lazy)[i] for i in (699, 699, 3, 4)]
  tokenizer, special = word_tokenizer(texts)
  tokens = []
  for folder, stream in zip('xy', made, strict=True):
    text = PackedText(tmp_path / folder, tokenizer, special, stream.template, LENGTH)
    tokens.append(packed_text.pack(stream, text).tasks[0].train.tokens)
  np.testing.assert_array_equal(*tokens)


def alive(texts):
  """How many rows with these texts stand in memory; those of other tests may go at any time."""
  gc.collect()
  rows = [x for x in gc.get_objects() if type(x) in (Record, RawRow)]
  found = (x.text if isinstance(x, RawRow) else x.fields.get('text') for x in rows)
  return sum(isinstance(text, str) and text in texts for text in found)


def test_labels_that_texts_have_count_for_nothing(tmp_path):
  """A label of the test split alone, and two that read alike, would be refused elsewhere."""
  lines = lambda *pairs: ''.join(json.dumps({'text': t, 'label': c}) + '\n' for t, c in pairs)
  fields = {'label': 'label', 'tasks': [{'name': 'a', 'train': 'a.jsonl', 'test': 'b.jsonl'}]}
  config = manifest(
    tmp_path, fields, a_jsonl=lines(('one', 'x y'), ('two', 'x_y')), b_jsonl=lines(('three', 'z'))
  )
  stream = load(config, targets=False)
  assert [(e.text, e.label, e.answer) for e in stream.examples] == [
    ('one', -1, ''), ('two', -1, ''), ('three', -1, '')
  ]  # fmt: skip
  with pytest.raises(UserError, match='label'):
    load(config)


def test_rows_that_make_no_classes_together_are_texts_all_the_same():
  """As above, of a reader that gives labels; and rows with answers beside rows with labels."""
  row = lambda i, **more: RawRow(f'f:{i}', f'text {i}', **more)
  train = [row(1, label='x y'), row(2, label='x_y'), row(3, answer='z')]
  raw = RawStream('toy', [RawTask('a', train, [row(4, label='other')])])
  stream = build(raw, StreamConfig(), targets=False)
  assert [e.label for e in stream.examples] == [-1] * 4
  for kept, label, says in (
    (train[:1], 'other', "label 'other' is not in the train split"),
    (train[:2], 'x y', "labels 'x y' and 'x_y' read the same"),
    (train[1:], 'x_y', 'f:3 has a free answer and f:2 a label'),
  ):
    with pytest.raises(UserError, match=says):
      build(raw._replace(tasks=[RawTask('a', kept, [row(4, label=label)])]), StreamConfig())


def test_texts_of_a_classed_stream_are_left_out_class_by_class():
  config = StreamConfig(name='synthetic', max_train_per_task=8)
  texts = load(config, targets=False)
  classed = load(config)
  assert [e.text for e in texts.examples] == [e.text for e in classed.examples]
  assert {e.label for e in texts.examples} == {-1}
  assert texts.classes == ()
