"""Tokenizers from scratch and added tokens."""

import pytest

from jcl.backbones import tokenizers
from jcl.errors import UserError

TEXTS = ['play some jazz', 'set an alarm', 'play an alarm']


def test_words_get_ids_in_sorted_order_whatever_the_order_of_texts():
  tokenizer, special = tokenizers.word_tokenizer(TEXTS)
  again, _ = tokenizers.word_tokenizer(reversed(TEXTS))
  assert tokenizer.to_str() == again.to_str()
  assert (special.pad, special.bos, special.eos) == (0, 2, 3)
  words = sorted({w for t in TEXTS for w in t.split()})
  assert [tokenizer.token_to_id(w) for w in words] == list(range(4, 4 + len(words)))
  assert tokenizer.encode('play a jazz').tokens == ['play', '<unk>', 'jazz']
  assert tokenizer.decode(tokenizer.encode('set some jazz').ids) == 'set some jazz'


def test_bpe_is_deterministic_and_encodes_every_text():
  tokenizer, special = tokenizers.bpe_tokenizer(TEXTS * 3, 300)
  again, _ = tokenizers.bpe_tokenizer(TEXTS * 3, 300)
  assert tokenizer.to_str() == again.to_str()
  assert tokenizer.get_vocab_size() <= 300
  for text in ('play jazz', ' two  spaces', 'é ß 漢 \n\t'):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
  assert tokenizer.id_to_token(special.eos) == '<eos>'
  with pytest.raises(UserError, match='needs at least 260'):
    tokenizers.bpe_tokenizer(TEXTS, 100)


@pytest.mark.parametrize(
  'make', [tokenizers.word_tokenizer, lambda t: tokenizers.bpe_tokenizer(t, 300)]
)
def test_added_tokens_are_single_and_stay(make):
  tokenizer, _ = make(TEXTS)
  size = tokenizer.get_vocab_size()
  ids = tokenizers.add_tokens(tokenizer, ['__ans__', '__gen__'])
  assert ids == [size, size + 1]
  assert tokenizers.add_tokens(tokenizer, ['__ans__', '__gen__']) == ids
  assert tokenizer.encode('play__ans__jazz').ids[1] == ids[0]
  assert tokenizer.encode('__gen__play').ids[0] == ids[1]


def test_an_ordinary_token_is_not_taken_over():
  tokenizer, _ = tokenizers.word_tokenizer([*TEXTS, 'what __ans__ is'])
  with pytest.raises(UserError, match="'__ans__' is an ordinary token"):
    tokenizers.add_tokens(tokenizer, ['__gen__', '__ans__'])
