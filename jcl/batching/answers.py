"""What counts as the same answer: decided on what the tokenizer makes of both sides.

A tokenizer may be unable to say an answer as it was written: WordPiece gives `天 气` back for
`天气`, an uncased one `us` for `US`, a word tokenizer a space for a line break. A model that has
learned such an answer writes what the tokenizer gives back, so that is what its answers are
compared with, without case and surrounding spaces (`streams.raw.answer_form`). The user is shown
labels as they were given.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jcl.batching.text_formats import Text
from jcl.streams.raw import answer_form, class_form
from jcl.streams.stream import Example


class Answer(NamedTuple):
  """An answer of a model.

  Attributes:
    text: what it wrote.
    label: index of the class that this stands for; -1 if it is none.
  """

  text: str
  label: int = -1


class Answers:
  """The answers that a stream knows, as its tokenizer gives them back.

  Args:
    text: tokenizer and text format of the run.
    classes: of the stream, as the model writes them; empty where answers are free.
  """

  def __init__(self, text: Text, classes: Sequence[str]):
    self._text, self._classes = text, classes
    self._class_of: dict[str, int] = {}
    if text.text_format != 'class':  # a head writes nothing
      for label, name in enumerate(classes):
        self._class_of.setdefault(class_form(text.written(name)), label)

  def read(self, ids: Iterable[int]) -> Answer:
    """Returns the answer that generated ids are."""
    said = self._text.answer(ids)
    return Answer(said, self.class_of(said))

  def class_of(self, said: str) -> int:
    """Returns the index of the class that a decoded answer stands for; -1 if it is none."""
    return self._class_of.get(class_form(said), -1)

  def wanted(self, example: Example) -> str:
    """Returns the answer that an example wants as it is compared, see `compared`."""
    if example.label >= 0 or self._text.text_format == 'class':
      return example.answer
    return self._text.answer(self._text.wanted(example)).strip()

  def compared(self, answer: Answer, example: Example) -> str:
    """Returns an answer as metrics compare it: a known label as written, else its text."""
    known = example.label >= 0 and answer.label >= 0
    return self._classes[answer.label] if known else answer.text.strip()

  def right(self, answer: Answer, example: Example) -> bool:
    """Returns whether an answer is the one that an example wants.

    A free answer with a word that the tokenizer does not know is wanted by no answer: the model
    cannot write it, and what it writes in its place could stand for any other word.
    """
    if example.label >= 0 and answer.label >= 0:
      return answer.label == example.label
    if self._text.text_format == 'class':
      return False
    wanted = self._text.wanted(example)
    if example.label < 0 and self._text.unknown in wanted:
      return False
    return answer_form(answer.text) == answer_form(self._text.answer(wanted))
