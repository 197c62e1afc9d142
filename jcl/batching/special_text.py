"""Encodes the texts of rows, and decides what a special token in a text is: a fault, or letters."""

import collections
import concurrent.futures
import functools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from tokenizers import Encoding, Tokenizer
from tokenizers.models import Unigram

from jcl.errors import UserError
from jcl.streams.special_tokens import GUARD, guarded, pattern_of, unguarded, without_strays

Item = TypeVar('Item')
Result = TypeVar('Result')

WORKERS = 16  # threads that tokenise, at most
FIELD = 'stream.special_tokens_in_text'


class Encoded(NamedTuple):
  """Token ids of a text, and where in it, guards left out, each token begins and ends."""

  ids: list[int]
  offsets: list[tuple[int, int]]


class TextEncoder:
  """A tokenizer that reads the texts of users.

  Args:
    tokenizer: of the model.
    forbidden: ids of special tokens that no text of a user may have.
    policy: `stream.special_tokens_in_text`: `text` reads a special token in a text as ordinary
      text; with `refuse` and `drop` such a text is an error.
    unknown: id of the tokenizer's unknown token, such as `<unk>`; None: there is none. A text of a
      user may have words that become this id, but may not contain the token's own text.

  Attributes:
    tokens: texts of the special tokens, the unknown token included.
  """

  def __init__(
    self, tokenizer: Tokenizer, forbidden: Collection[int], policy: str = 'refuse',
    unknown: int | None = None,
  ):  # fmt: skip
    self.tokenizer, self.policy, self.unknown = tokenizer, policy, unknown
    self.forbidden = frozenset(forbidden) - {unknown}
    ids = sorted(self.forbidden if unknown is None else {*self.forbidden, unknown})
    self.tokens = [t for i in ids if (t := tokenizer.id_to_token(i)) is not None]
    self._pattern = pattern_of(self.tokens)
    self._unknown = '' if unknown is None else tokenizer.id_to_token(unknown) or ''

  def encode(self, text: str, where: str, rendered: bool = False) -> Encoded:
    """Returns the tokens of a text, without beginning- and end-of-sequence.

    Args:
      text: to be tokenised.
      where: name of the text in error messages.
      rendered: a template made the text: special tokens in it are meant, but for guarded ones.

    Raises:
      UserError: the text contains a special token that is not meant, and the policy is not `text`.
    """
    if rendered:
      return self._rendered(text, where)
    text = unguarded(text)
    return self._checked(self._raw(text, self.policy == 'text'), text, where)

  def encode_all(self, texts: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    """Returns the ids of several texts of users; `names` are their names in error messages."""
    rows = zip(self.placed(texts), texts, names, strict=True)
    return [self._checked(e, text, name).ids for e, text, name in rows]

  def ahead(self, parts: Iterable[Sequence[str]]) -> Iterator[list[Encoding]]:
    """Yields the unchecked tokens of the texts of each part; other threads are some parts ahead.

    Where in the text they stand is not known of them.
    """
    call = lambda texts: self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    if self.policy == 'text':  # a setting of the whole tokenizer, which other threads would see
      for part in parts:
        yield self._reading_specials(True, functools.partial(call, part))
      return
    yield from in_threads(call, parts)

  def placed(self, texts: Sequence[str]) -> list[Encoding]:
    """Returns the unchecked tokens of some texts, with their places in the text."""
    call = lambda: self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return self._reading_specials(self.policy == 'text', call)

  def special_token(self, text: str) -> str | None:
    """Returns a special token that a user's text contains; None: there is none."""
    found = self._special_in(self._raw(text, False).ids, text)
    return self._named(found) if found else None

  def writes_unknown(self, text: str) -> bool:
    """Whether a user's text contains the text of the unknown token, as given or normalised."""
    if not self._unknown or self._unknown in text:
      return bool(self._unknown)
    normalizer = self.tokenizer.normalizer
    return normalizer is not None and self._unknown in normalizer.normalize_str(text)

  def holds_special(self, text: str) -> bool:
    """Returns whether a special token is written out in a text."""
    return self._pattern is not None and self._pattern.search(text) is not None

  def refused(self, where: str, token: str) -> UserError:
    """Returns the error for a text that contains a special token."""
    return UserError(
      f'{where}: the text contains {token}, a special token; write it differently, or set {FIELD} '
      'to text (read as ordinary text) or drop (leave the row out)'
    )

  def _raw(self, text: str, as_text: bool) -> Encoding:
    call = lambda: self.tokenizer.encode(text, add_special_tokens=False)
    return self._reading_specials(as_text, call)

  def _reading_specials(self, as_text: bool, call: Callable[[], Result]) -> Result:
    """Returns call() while the tokenizer reads special tokens in a text as text, or as tokens."""
    if not as_text:  # as it is otherwise; other threads may be reading
      return call()
    self.tokenizer.encode_special_tokens = True
    try:
      return call()
    finally:
      self.tokenizer.encode_special_tokens = False

  def _checked(self, encoding: Encoding, text: str, where: str) -> Encoded:
    """Returns the tokens of a text; special ones in it are refused, or read as text."""
    found = self._special_in(encoding.ids, text)
    if not found:
      return Encoded(encoding.ids, encoding.offsets)
    token = self._named(found)
    if self.policy != 'text':
      raise self.refused(where, token)
    # Some vocabularies hold their special tokens as words, which the model itself then finds.
    return self._broken(without_strays(guarded(text, self.tokens), self.tokens), where)

  def _special_in(self, ids: Sequence[int], text: str) -> set[int]:
    """Returns the special ones among the ids of a user's text."""
    held = set(ids)
    found = self.forbidden & held
    if self.unknown is not None and self.unknown in held and self.writes_unknown(text):
      return {*found, self.unknown}
    return set(found)

  def _rendered(self, text: str, where: str) -> Encoded:
    text = without_strays(text, self.tokens)
    if GUARD not in text:
      return Encoded(*_parts(self._raw(text, False)))
    if self.policy != 'text':
      raise self.refused(where, self._guarded_token(text))
    return self._broken(text, where, meant=True)

  def _named(self, found: Collection[int]) -> str:
    """Returns the text of the first of some special tokens."""
    return self.tokenizer.id_to_token(min(found)) or f'token {min(found)}'

  def _guarded_token(self, text: str) -> str:
    """Returns the first special token of a text that has a guard."""
    at = text.index(GUARD)
    rest = text[at - 1] + text[at + 1 :]
    fits = [token for token in self.tokens if rest.startswith(token)]
    return max(fits, key=len, default='a special token')

  def _broken(self, text: str, where: str, meant: bool = False) -> Encoded:
    """Returns the tokens of a guarded text, without those of its guards."""
    encoding = self._raw(text, False)
    found = self.forbidden & set(encoding.ids)
    if found and not meant:
      token = self._named(found)
      raise UserError(f'{where}: {token} cannot be read as text by this tokenizer; take it out')
    place, places = 0, []  # of each letter in the text without guards
    for letter in text:
      places.append(place)
      place += letter != GUARD
    places.append(place)
    ids, offsets = [], []
    for number, (start, end) in zip(*_parts(encoding), strict=True):
      if text[start:end].strip(GUARD) or start == end:
        ids.append(number)
        offsets.append((places[start], places[end]))
    return Encoded(ids, offsets)


def in_threads(fn: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
  """Yields fn(item) of each item in order; threads, one a core, are some items ahead."""
  workers = min(os.cpu_count() or 1, WORKERS)
  with concurrent.futures.ThreadPoolExecutor(workers, 'jcl-tokens') as pool:
    waiting: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    for item in items:
      waiting.append(pool.submit(fn, item))
      if len(waiting) > workers:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()


class SpecialTokens(Protocol):
  """Ids of the special tokens of a tokenizer: beginning, end and padding; None: it has none."""

  @property
  def bos(self) -> int | None: ...

  @property
  def eos(self) -> int: ...

  @property
  def pad(self) -> int | None: ...


def unknown_id(tokenizer: Tokenizer) -> int | None:
  """Returns the id of the unknown token; None if the tokenizer knows all, as byte-level ones do."""
  if isinstance(tokenizer.model, Unigram):
    return json.loads(tokenizer.to_str())['model']['unk_id']
  token = getattr(tokenizer.model, 'unk_token', None)
  return tokenizer.token_to_id(token) if token else None


def _parts(encoding: Encoding) -> tuple[list[int], list[tuple[int, int]]]:
  return encoding.ids, encoding.offsets
