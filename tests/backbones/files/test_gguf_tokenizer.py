"""The tokenizers of GGUF files: words are split as llama.cpp splits them."""

import pytest

from jcl.backbones.files import gguf, gguf_tokenizer
from jcl.backbones.files.fields import Fields
from jcl.errors import UserError

TEXT = "It's x=$3.50, 12345\n\n a/\nİkİ CamelCase  ½ we'LL"
# By hand from the patterns in llama-vocab.cpp of llama.cpp, which tests its own table with those
# tokenizers; · stands for a space, ¶ for the end of a line, | between words.
GPT2 = "It|'s|·x|=$|3|.|50|,|·12345|¶¶|·a|/|¶|İkİ|·CamelCase|·|·½|·we|'|LL"
DIGITS = "It|'s|·x|=$|3|.|5|0|,|·|1|2|3|4|5|¶¶|·a|/|¶|İkİ|·CamelCase|··|½|·we|'|LL"
DEFAULT = "It|'|s|·x|=$|3|.|50|,|·|123|45|¶¶|·a|/|¶|İkİ|·CamelCase|·|·|½|·we|'|LL"
LLAMA3 = "It|'s|·x|=$|3|.|50|,|·|123|45|¶¶|·a|/¶|İkİ|·CamelCase|·|·|½|·we|'LL"
QWEN2 = "It|'s|·x|=$|3|.|5|0|,|·|1|2|3|4|5|¶¶|·a|/¶|İkİ|·CamelCase|·|·|½|·we|'LL"
TEKKEN = "It|'s|·x|=$|3|.|5|0|,|·|1|2|3|4|5|¶¶|·a|/¶|İk|İ|·Camel|Case|·|·|½|·we|'LL"
GPT4O = "It's|·x|=$|3|.|50|,|·|123|45|¶¶|·a|/¶|İk|İ|·Camel|Case|·|·|½|·we'LL"
SPLIT = {
  'default': DEFAULT, None: DEFAULT, 'gpt-2': GPT2, 'olmo': GPT2, 'smollm': DIGITS,
  'starcoder': DIGITS, 'refact': DIGITS, 'llama-bpe': LLAMA3, 'falcon3': LLAMA3, 'dbrx': LLAMA3,
  'smaug-bpe': LLAMA3, 'qwen2': QWEN2, 'deepseek-r1-qwen': QWEN2, 'tekken': TEKKEN, 'gpt-4o': GPT4O,
}  # fmt: skip


def fields(**values):
  """The metadata of a tokenizer of bytes."""
  values = {
    'model': 'gpt2', 'tokens': ['<s>', '</s>', 'a', 'b', 'ab'], 'token_type': [3, 3, 1, 1, 1],
    'merges': [], 'bos_token_id': 0, 'eos_token_id': 1, **values,
  }  # fmt: skip
  return Fields({f'tokenizer.ggml.{k}': v for k, v in values.items() if v is not None}, 'x.gguf')


def read(**values):
  return gguf_tokenizer.read_tokenizer(fields(**values), 'x.gguf')[0]


@pytest.mark.parametrize('name', SPLIT)
def test_words_are_those_of_llama_cpp(name):
  found = read(pre=name).pre_tokenizer.pre_tokenize_str(TEXT)
  words = [TEXT[start:end] for _, (start, end) in found]
  assert '|'.join(words).replace(' ', '·').replace('\n', '¶') == SPLIT[name]


@pytest.mark.parametrize('name', gguf_tokenizer.WORD_SPLITS)
def test_a_whole_word_and_the_first_token_are_those_of_llama_cpp(name):
  """Without merges: Llama 3's and Mistral's take a word that is a token, and begin with bos."""
  whole = name in ('llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'midm-2.0', 'tekken')
  assert read(pre=name).encode('ab').tokens == (['<s>', 'ab'] if whole else ['a', 'b'])
  assert read(pre=name, add_bos_token=not whole).encode('ab').tokens[0] == (
    'ab' if whole else '<s>'
  )


def test_a_file_that_does_not_say_how_words_are_split_is_named():
  lines = lambda **values: gguf._notes(fields(**values), 'x.gguf')
  assert 'tokenizer.ggml.pre is absent' in lines()[0]
  assert not any('is absent' in line for line in lines(pre='default') + lines(model='llama'))


def test_a_tokenizer_of_contradicting_lists_is_refused():
  with pytest.raises(UserError, match=r'x.gguf: no valid tokenizer'):
    read(model='llama', token_type=None, scores=[0.0])


def test_accents_are_composed_by_qwen2_alone():
  found = {name: read(pre=name).normalizer for name in gguf_tokenizer.WORD_SPLITS}
  assert found.pop('qwen2').normalize_str('e\u0301') == '\u00e9'
  assert not any(found.values())
