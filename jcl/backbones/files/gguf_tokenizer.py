"""The tokenizer in the metadata of a GGUF file."""

from typing import Any, NamedTuple, TypeVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pre

from jcl.backbones.files.fields import Fields
from jcl.backbones.tokenizers import SpecialIds
from jcl.batching import beginnings
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
    The tokenizer, its special ids, and fields that an export adds to tokenizer_config.json.

  Raises:
    UserError: a key is missing or malformed, or the kind of tokenizer is unknown.
  """
  try:
    return _made(TokenizerFields(fields), file)
  except (MemoryError, UserError):
    raise
  except Exception as error:  # the package tokenizers raises errors of many kinds
    raise UserError(f'{file}: no valid tokenizer ({error}); fetch it again') from None


class TokenizerFields:
  """The keys of the metadata that begin with `tokenizer.ggml.`, asked for without that prefix."""

  def __init__(self, fields: Fields):
    self._fields = fields

  def get(self, name: str, kind: type[Value], default: Value | None = None) -> Value:
    """Returns a key's value; see `Fields.get`."""
    return self._fields.get(PREFIX + name, kind, default)

  def plain(self, name: str) -> Any:
    """Returns a key's value, unchecked; None where it is absent."""
    return self._fields.values.get(PREFIX + name)


def _made(fields: TokenizerFields, file: str) -> tuple[Tokenizer, SpecialIds, dict[str, Any]]:
  """Does the work of `read_tokenizer`; errors of the package tokenizers pass through."""
  tokens, kind = fields.get('tokens', list), fields.get('model', str)
  kinds = fields.get('token_type', list, [NORMAL] * len(tokens))
  has_bos = kind == 'llama'
  if kind == 'gpt2':
    words = _word_split(fields, file)
    tokenizer, has_bos = _byte_level(fields, tokens, words), words.has_bos
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
  if fields.get('add_bos_token', bool, has_bos) and special.bos is not None:
    bos = tokens[special.bos]
    tokenizer.post_processor = processors.TemplateProcessing(
      single=[bos, '$A'], pair=[bos, '$A', '$B'], special_tokens=[(bos, special.bos)]
    )
  for name in ('add_eos_token', 'add_sep_token'):
    if fields.get(name, bool, False):
      raise UserError(
        f'{file}: {PREFIX}{name} is true: a tokenizer that adds a token at the end of every text '
        'is not supported'
      )
  unknown = fields.plain('unknown_token_id')
  unknown = (
    next((i for i, k in enumerate(kinds) if k == UNKNOWN), None) if unknown is None else unknown
  )
  named = {'unk_token': tokens[unknown]} if isinstance(unknown, int) else {}
  return tokenizer, special, named


class WordSplit(NamedTuple):
  """How byte-level BPE splits a text into words; pairs are merged inside of a word.

  Attributes:
    split: the pre-tokenizer.
    ignore_merges: a word that is a token becomes that token, whatever the merges would give.
    has_bos: texts begin with the bos token where no key says whether they do.
    normalizer: of texts, before they are split; None: none.
  """

  split: pre.PreTokenizer
  ignore_merges: bool = False
  has_bos: bool = False
  normalizer: normalizers.Normalizer | None = None


def _split_by(*patterns: str) -> pre.PreTokenizer:
  """Returns a pre-tokenizer that splits by each pattern in turn; matches and the rest are words."""
  splits = [pre.Split(Regex(pattern), 'isolated') for pattern in patterns]
  return pre.Sequence([*splits, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


# The patterns are those in the tokenizer.json of the models; `_DEFAULT` is llama.cpp's.
_LLAMA3, _QWEN2, _TEKKEN, _GPT4O = map(_split_by, beginnings.WORDS)
_GPT2 = pre.ByteLevel(add_prefix_space=False)
_DIGITS = pre.Sequence([pre.Digits(individual_digits=True), _GPT2])  # GPT-2's, digits alone
_DEFAULT = _split_by(
  r'[\p{P}\$\+<=>\^~\|]+',
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
  r'\p{N}+',
  r'[0-9][0-9][0-9]',
)
WORD_SPLITS = {
  'default': WordSplit(_DEFAULT),
  **dict.fromkeys(
    ('gpt-2', 'phi-2', 'olmo', 'trillion', 'mellum', 'a.x-4.0', 'granite-docling'), WordSplit(_GPT2)
  ),
  **dict.fromkeys(('smollm', 'starcoder', 'refact', 'codeshell', 'minerva-7b'), WordSplit(_DIGITS)),
  **dict.fromkeys(
    ('llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'midm-2.0'),
    WordSplit(_LLAMA3, ignore_merges=True, has_bos=True),
  ),
  **dict.fromkeys(('dbrx', 'smaug-bpe'), WordSplit(_LLAMA3)),
  'qwen2': WordSplit(_QWEN2, normalizer=normalizers.NFC()),
  **dict.fromkeys(('deepseek-r1-qwen', 'megrez', 'kormo'), WordSplit(_QWEN2)),
  'tekken': WordSplit(_TEKKEN, ignore_merges=True, has_bos=True),
  'gpt-4o': WordSplit(_GPT4O),
}
"""{value of tokenizer.ggml.pre: how words are split}, for the architectures that jcl reads.

Source: llama-vocab.cpp of llama.cpp, which takes `default` where the key is absent."""


def _word_split(fields: TokenizerFields, file: str) -> WordSplit:
  """Returns how the tokenizer of a file splits texts into words.

  Raises:
    UserError: the name is not one of WORD_SPLITS.
  """
  name = fields.get('pre', str, 'default')
  if name not in WORD_SPLITS:
    raise UserError(f'{file}: pre-tokenizer {name!r} is unknown; known: {", ".join(WORD_SPLITS)}')
  return WORD_SPLITS[name]


def split_notes(fields: Fields, file: str) -> tuple[str, ...]:
  """Returns a line about a byte-level tokenizer whose file does not say how words are split."""
  own = TokenizerFields(fields)
  if own.plain('model') != 'gpt2' or own.plain('pre') is not None:
    return ()
  return (
    f'{file}: {PREFIX}pre is absent; words are split by the default of llama.cpp, which may not be '
    'the split that the model learned; convert the model again to be sure',
  )


def _byte_level(fields: TokenizerFields, tokens: list[str], words: WordSplit) -> Tokenizer:
  """Returns a byte-level BPE tokenizer, as GPT-2's."""
  merges = [tuple(merge.split(' ', 1)) for merge in fields.get('merges', list)]
  vocabulary = {token: i for i, token in enumerate(tokens)}
  tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=words.ignore_merges))
  tokenizer.pre_tokenizer = words.split
  if words.normalizer is not None:
    tokenizer.normalizer = words.normalizer
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _sentence_piece(fields: TokenizerFields, tokens: list[str], kinds: list[int]) -> Tokenizer:
  """Returns SentencePiece's BPE: the pair whose piece has the best score is merged first."""
  fields.plain('pre')  # counts as read: a text is not split into words
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
