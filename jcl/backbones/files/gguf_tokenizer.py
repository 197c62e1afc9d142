"""The tokenizer in the metadata of a GGUF file."""

from typing import Any, TypeVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pre

from jcl.backbones.files.fields import Fields
from jcl.backbones.tokenizers import SpecialIds
from jcl.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of tokens
PREFIX = 'tokenizer.ggml.'
TEMPLATE = 'tokenizer.chat_template'
Value = TypeVar('Value')


def read_tokenizer(fields: Fields, file: str) -> tuple[Tokenizer, SpecialIds, dict[str, Any]]:
  """Makes the tokenizer of the metadata: byte-level BPE, or SentencePiece's BPE.

  Args:
    fields: keys of the metadata; those that begin with `tokenizer.ggml.` are read.
    file: for messages.

  Returns:
    The tokenizer, its special ids, and further fields of a tokenizer_config.json.

  Raises:
    UserError: a key is missing or malformed, or the kind of tokenizer is unknown.
  """
  try:
    return _made(Inner(fields), file)
  except UserError:
    raise
  except Exception as error:  # of any kind, out of the library of tokenizers
    raise UserError(f'{file}: no valid tokenizer ({error}); fetch it again') from None


class Inner:
  """The keys that begin with `tokenizer.ggml.`, named without that."""

  def __init__(self, fields: Fields):
    self._fields = fields

  def get(self, name: str, kind: type[Value], default: Value | None = None) -> Value:
    """Returns a key's value; see `Fields.get`."""
    return self._fields.get(PREFIX + name, kind, default)

  def plain(self, name: str) -> Any:
    """Returns a key's value, unchecked; None where it is absent."""
    return self._fields.values.get(PREFIX + name)


def _made(fields: Inner, file: str) -> tuple[Tokenizer, SpecialIds, dict[str, Any]]:
  tokens, kind = fields.get('tokens', list), fields.get('model', str)
  kinds = fields.get('token_type', list, [NORMAL] * len(tokens))
  if kind == 'gpt2':
    tokenizer = _byte_level(fields, tokens, file)
  elif kind == 'llama':
    tokenizer = _sentence_piece(fields, tokens, kinds)
  else:
    raise UserError(f'{file}: tokenizer {kind!r} is unknown; known: gpt2, llama')
  marks = {CONTROL: True, UNKNOWN: True, USER_DEFINED: False}
  for token, mark in zip(tokens, kinds, strict=True):
    if mark in marks:
      added = AddedToken(token, special=marks[mark], normalized=False)
      tokenizer.add_special_tokens([added]) if marks[mark] else tokenizer.add_tokens([added])
  ids = {n: fields.plain(f'{m}_token_id') for n, m in
         (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding'))}  # fmt: skip
  special = SpecialIds(ids['bos'], fields.get('eos_token_id', int), ids['pad'])
  if fields.get('add_bos_token', bool, kind == 'llama') and special.bos is not None:
    bos = tokens[special.bos]
    tokenizer.post_processor = processors.TemplateProcessing(
      single=[bos, '$A'], pair=[bos, '$A', '$B'], special_tokens=[(bos, special.bos)]
    )
  if fields.get('add_eos_token', bool, False) or fields.get('add_sep_token', bool, False):
    raise UserError(f'{file}: add_eos_token is true: texts that end themselves are not supported')
  unknown = fields.plain('unknown_token_id')
  unknown = (
    next((i for i, k in enumerate(kinds) if k == UNKNOWN), None) if unknown is None else unknown
  )
  named = {'unk_token': tokens[unknown]} if isinstance(unknown, int) else {}
  return tokenizer, special, named


_LLAMA3 = (  # from its tokenizer.json
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_SPLITS = {  # the words of Llama 3, OLMo-2, SmolLM3 and Qwen 2
  **dict.fromkeys(('llama-bpe', 'dbrx', 'smaug-bpe'), _LLAMA3),
  'qwen2': r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
}
_WORDS = ('default', 'gpt-2', 'olmo')  # the words of GPT-2
_DIGITS = ('smollm', 'starcoder', 'refact')  # the same, of single digits


def _byte_level(fields: Inner, tokens: list[str], file: str) -> Tokenizer:
  merges = [tuple(merge.split(' ', 1)) for merge in fields.get('merges', list)]
  kind = fields.get('pre', str, 'default')
  vocabulary = {token: i for i, token in enumerate(tokens)}
  tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=kind == 'llama-bpe'))
  if kind in _WORDS:
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
  elif kind in _DIGITS:
    tokenizer.pre_tokenizer = pre.Sequence(
      [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    )
  elif kind in _SPLITS:
    tokenizer.pre_tokenizer = pre.Sequence(
      [
        pre.Split(Regex(_SPLITS[kind]), 'isolated'),
        pre.ByteLevel(add_prefix_space=False, use_regex=False),
      ]
    )
  else:
    known = ', '.join((*_WORDS, *_DIGITS, *_SPLITS))
    raise UserError(f'{file}: pre-tokenizer {kind!r} is unknown; known: {known}')
  if kind == 'qwen2':
    tokenizer.normalizer = normalizers.NFC()
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _sentence_piece(fields: Inner, tokens: list[str], kinds: list[int]) -> Tokenizer:
  """SentencePiece's BPE: the pair that makes the piece of the best score is merged first."""
  fields.plain('pre')  # words are not split
  scores, vocabulary = fields.get('scores', list), {token: i for i, token in enumerate(tokens)}
  merges: list[tuple[float, tuple[str, str]]] = []
  for piece, score, kind in zip(tokens, scores, kinds, strict=True):
    if kind != NORMAL:
      continue
    pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
    pairs = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
    pairs.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    merges.extend((-score, pair) for pair in pairs)
  merges.sort(key=lambda merge: merge[0])
  unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
  tokenizer = Tokenizer(
    models.BPE(
      vocabulary,
      [pair for _, pair in merges],
      unk_token=unknown,
      fuse_unk=True,
      byte_fallback=BYTE in kinds,
    )
  )
  prefix = fields.get('add_space_prefix', bool, True)
  steps = [normalizers.Prepend('▁')] * prefix + [normalizers.Replace(' ', '▁')]
  tokenizer.normalizer = normalizers.Sequence(steps)
  strip = [decoders.Strip(' ', 1, 0)] * prefix
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), *strip]
  )
  return tokenizer
