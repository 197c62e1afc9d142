"""Rows of tokens from words, as docs/methods.md has the text formats: no line of it is jcl's.

    plain        Input sentence: {x} The label: {y}{eos}            targets: y and eos
    lamol        {x}__ans__{y}{eos}     and     __gen__{x}__ans__{y}{eos}
    lamol_task   likewise, with __0__, __1__, … a task in place of __gen__
    class        {x}                                                target: the class, at the end

Words are split at white space; a word is a token. The generative row's targets are everything
after its first token. A target is the place before the token that is wanted there.
"""

from typing import NamedTuple


class Row(NamedTuple):
  """A row as an oracle knows it: ids, places that predict, what they should predict.

  Attributes:
    shown: prompt in which a teacher is shown the right answer, where the row is an own answer.
  """

  tokens: list[int]
  targets: list[int]
  wanted: list[int]
  replay: bool
  generative: bool
  task: int
  shown: tuple[int, ...] = ()


def rows(example, replay: bool, text_format: str, ids: dict[str, int]) -> list[Row]:
  """The rows of an example.

  Args:
    example: its text, answer, task and label; or `tokens`, those that a pseudo sample was drawn as.
      In a plain row they are the prompt and the model's own answer, and text and answer are given.
    replay: it comes from the past.
    text_format: see above.
    ids: {word: token id}.
  """
  kind = replay, example.task
  said = [ids[word] for word in example.text.split()]
  answer = [*(ids[word] for word in example.answer.split()), ids['<eos>']]
  if text_format == 'class':
    return [Row(said, [len(said) - 1], [example.label], replay, False, example.task)]
  if text_format == 'plain':
    before, between = (
      [ids[word] for word in part.split()] for part in ('Input sentence:', 'The label:')
    )
    prompt = [*before, *said, *between]
    if example.tokens is None:
      return [_row(prompt, answer, False, *kind)]
    own = _row(prompt, list(example.tokens[len(prompt) :]), False, *kind)
    return [own._replace(shown=(*prompt, *answer, *prompt))]
  ask = ids['__ans__']
  if example.tokens is not None:
    at = list(example.tokens).index(ask)
    said, answer = list(example.tokens[:at]), list(example.tokens[at + 1 :])
  begin = ids['__gen__' if text_format == 'lamol' else f'__{example.task}__']
  question = _row([*said, ask], answer, False, *kind)
  return [question, _row([begin], [*said, ask, *answer], True, *kind)]


def block(
  documents: list[str],
  ids: dict[str, int],
  place: int,
  size: int,
  seen: list[int],
  replay: bool,
  task: int,
) -> Row:
  """A piece of raw text: {eos}{document}{eos}{document}{eos}, each token predicted by those before.

  Args:
    documents: of the corpus.
    ids: {word: token id}.
    place: of the first token of its block in the corpus.
    size: tokens of the block.
    seen: the tokens that it shows: those of the block, its beginning or its rest.
    replay, task: what the row is.
  """
  every = [ids['<eos>']]
  for document in documents:
    every += [*(ids[word] for word in document.split()), ids['<eos>']]
  size = min(size, len(every) - 1 - place)
  ends = {place, place + size - len(seen)}
  found = {
    tuple(every[i + 1 : i + 1 + len(seen)]) for i in ends if every[i : i + len(seen)] == seen
  }
  (wanted,) = found  # a piece that stands at both ends would be nobody's
  return Row(seen, list(range(len(seen))), list(wanted), replay, False, task)


def _row(prompt: list[int], answer: list[int], generative: bool, replay: bool, task: int) -> Row:
  first = len(prompt) - 1
  places = list(range(first, first + len(answer)))
  return Row([*prompt, *answer], places, answer, replay, generative, task)
