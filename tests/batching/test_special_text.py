"""Special tokens in the texts of rows: refused, or read as letters, and those that are meant."""

import pytest
from support import tokenizer_kinds

from jcl.batching.special_text import TextEncoder
from jcl.errors import UserError
from jcl.streams.special_tokens import GUARD, cut, guarded, unguarded, without_strays
from jcl.streams.stream import Example

OTHERS = {'bert': ('[SEP]', '[CLS]', '[UNK]', '[MASK]'), 'llama': ('<s>', '<unk>', '</s>')}
OWN = {
  'word': ('<eos>', '<bos>', '<unk>', '<pad>'),
  'byte_bpe': ('<eos>', '<bos>'), 'nfc_bpe': ('<eos>',),
  'wordpiece': OTHERS['bert'], 'uncased': OTHERS['bert'],
  'unigram': OTHERS['llama'], 'llama_bpe': OTHERS['llama'],
}  # fmt: skip
CASES = [
  (kind, token, text_format)
  for kind, tokens in OWN.items()
  for text_format, added in (('plain', ()), ('lamol', ('__ans__', '__gen__')), ('class', ()))
  for token in (*tokens, *added)
]
FRAMES = ('{} at the start', 'in the{}middle', 'at the end {}', '{}', 'twice {0}{0} of it')


def made(kind, text_format='plain', **how):
  words = ['in the middle', 'at the start', 'at the end', 'twice of it', 'refund', '< / >']
  return tokenizer_kinds.text(kind, words, text_format, **how)


def ids_of(text):
  """Every special id of a tokenizer but that of unknown words."""
  return text.encoder.forbidden


@pytest.mark.parametrize(('kind', 'token', 'text_format'), CASES)
def test_a_special_token_in_a_text_is_refused_by_name_or_read_as_letters(kind, token, text_format):
  refusing = made(kind, text_format)
  reading = made(kind, text_format, special_tokens='text')
  start, end = len(reading.start), len(reading.end)
  for number, frame in enumerate(FRAMES):
    example = Example(number, frame.format(token), 'refund', 0, 0, 'mails.csv:7')
    with pytest.raises(UserError) as refused:
      refusing.rows(example)
    for words in ('mails.csv:7', token, 'stream.special_tokens_in_text'):
      assert words in str(refused.value)
    assert refusing.special_token(example) == token
    row = reading.rows(example)[0]
    own = row.tokens[start : len(row.tokens) - (end if text_format == 'class' else 1)].tolist()
    added = {reading.tokenizer.token_to_id('__ans__')} if text_format == 'lamol' else set()
    assert not (set(own) & ids_of(reading)) - added
  plain = Example(9, 'at the end', 'refund', 0, 0)
  assert refusing.special_token(plain) is None
  assert refusing.rows(plain)[0].tokens.tolist() == reading.rows(plain)[0].tokens.tolist()


@pytest.mark.parametrize('kind', ['byte_bpe', 'llama_bpe', 'unigram'])
def test_a_token_that_is_read_as_letters_reads_back(kind):
  text = made(kind, special_tokens='text')
  token = OWN[kind][0]
  ids = text.encode(f'in the {token} end')
  assert ''.join(text.decode(ids).split()) == f'inthe{token}end'


def test_an_answer_may_hold_a_special_token_as_letters():
  text = made('byte_bpe', special_tokens='text')
  example = Example(0, 'in the', 'refund <eos> at once', 0)
  row = text.rows(example)[0]
  assert row.wanted.tolist().count(text.eos) == 1
  assert row.wanted[-1] == text.eos
  assert text.answer(row.wanted.tolist()) == 'refund <eos> at once'


@pytest.mark.parametrize('kind', OWN)
def test_in_a_rendered_text_the_templates_tokens_are_special_and_the_users_are_not(kind):
  token = OWN[kind][-1]
  text, refusing = made(kind, special_tokens='text'), made(kind)
  one = text.tokenizer.token_to_id(token)
  user = f'in the {token} middle'
  marked = guarded(user, text.encoder.tokens)
  assert GUARD in marked
  assert unguarded(marked) == user
  encoded = text.encoder.encode(f'{token}at the start {marked} end', 'row', rendered=True)
  assert encoded.ids.count(one) == 1
  assert encoded.ids[0] == one
  whole = unguarded(f'{token}at the start {marked} end')
  assert all(0 <= a <= b <= len(whole) for a, b in encoded.offsets)
  with pytest.raises(UserError, match='special_tokens_in_text'):
    refusing.encoder.encode(f'{token}at {marked}', 'row', rendered=True)
  meant = f'{token}at the start'
  assert refusing.encoder.encode(meant, 'row', rendered=True).ids == (
    refusing.tokenizer.encode(meant, add_special_tokens=False).ids
  )
  assert refusing.special_token(Example(0, user, '', 0)) == token


def test_special_tokens_of_the_streams_template_are_meant():
  text = made('llama_bpe', template='<s>{x}</s> {y}', special_tokens='text')
  bos, eos = (text.tokenizer.token_to_id(t) for t in ('<s>', '</s>'))
  row = text.rows(Example(0, 'in </s> the', 'refund', 0))[0]
  assert row.tokens.tolist().count(bos) == 1
  assert row.tokens.tolist().count(eos) == 2
  refusing = made('llama_bpe', template='<s>{x}</s> {y}')
  assert refusing.rows(Example(0, 'in the', 'refund', 0))[0].tokens.tolist().count(eos) == 2
  with pytest.raises(UserError, match=r'row-3.*</s>'):
    refusing.rows(Example(1, 'in </s> the', 'refund', 0, name='row-3'))


@pytest.mark.parametrize('kind', OWN)
def test_a_long_input_with_special_tokens_is_cut_where_a_token_starts(kind):
  token = OWN[kind][0]
  text = made(kind, special_tokens='text')
  text.max_length = 48
  rows = text.rows(Example(0, f'in the {token} middle ' * 30, 'refund', 0))
  assert text.cut == {0}
  assert len(rows[0].tokens) <= 48
  framed = made(kind, template=f'{token} {{x}} {{y}}', special_tokens='text')
  framed.max_length = 48
  row = framed.rows(Example(1, f'in the {token} middle ' * 30, 'refund', 0))[0]
  one = framed.tokenizer.token_to_id(token)
  assert len(row.tokens) <= 48
  assert row.tokens[:-1].tolist().count(one) == 1  # the template's own; the last may be the end


def test_guards_are_taken_out_of_what_a_user_wrote_and_do_not_count():
  tokens = ['<s>', '<s>x']
  assert guarded(f'a{GUARD}<s>xb', tokens) == f'a<{GUARD}s>xb'
  assert cut(f'a<{GUARD}s>b', 2) == 'a<' + GUARD
  assert cut(f'a<{GUARD}s>b', 9) == f'a<{GUARD}s>b'
  assert guarded('plain', []) == 'plain'
  encoder = TextEncoder(made('byte_bpe').tokenizer, (), 'refuse')
  assert encoder.encode(f'a{GUARD}b', 'row').ids == encoder.encode('ab', 'row').ids


@pytest.mark.parametrize('kind', ['byte_bpe', 'llama_bpe', 'unigram', 'wordpiece'])
def test_a_special_token_that_a_template_joins_of_two_texts_is_the_users(kind):
  (token, *_), letters = OWN[kind], made(kind, special_tokens='text')
  refusing = made(kind).encoder
  for at in range(1, len(token)):
    begins, ends = f'at {token[:at]}', f'{token[at:]} end'
    joined = ''.join(guarded(text, refusing.tokens) for text in (begins, ends))
    with pytest.raises(UserError, match='contains') as refused:
      refusing.encode(joined, 'row 7', rendered=True)
    assert token in str(refused.value)
    found = letters.encoder.encode(joined, 'row 7', rendered=True)
    assert not set(found.ids) & ids_of(letters)
    apart = ' '.join(guarded(text, refusing.tokens) for text in (begins, ends))
    plain = unguarded(apart)
    for encoder in (refusing, letters.encoder):
      found = encoder.encode(apart, 'row 7', rendered=True)
      assert found == encoder.encode(plain, 'row 7', rendered=True)


def test_guards_stand_where_a_token_is_or_may_be_made_whole():
  tokens = ['<|end|>', '</s>', '<s>']
  seen = lambda text: guarded(text, tokens).replace(GUARD, '*')
  assert [seen(x) for x in ('a <', 'x </s> y <|en', '<s>', '', 'plain', '</s')] == [
    'a <*', 'x <*/s> y <*|en', '<*s>', '', 'plain', '<*/s',
  ]  # fmt: skip
  rendered = ''.join(guarded(x, tokens) for x in ('go <|en', 'd|> now <', 'b'))
  assert without_strays(rendered, tokens).replace(GUARD, '*') == 'go <*|end|> now <b'
