"""Texts of users on a terminal: nothing in them steers it, and what they say can still be read."""

import pytest

from jcl.streams.escaping import escaped, quoted, shortened

STEERING = '\x1b[31m\x07\r\n\t\x00\x7f\x9b\u202e\u2066\u200f\u2028\u2029\ufeff\ud800\ufdd0'


def test_nothing_that_steers_a_terminal_is_left():
  for letter in STEERING.replace('[31m', ''):
    assert escaped(f'a{letter}b') == f'a{ascii(letter)[1:-1]}b'
  assert escaped(STEERING).isprintable()
  assert escaped(STEERING).isascii()


@pytest.mark.parametrize(
  'text',
  ['天气', 'حالة الطقس', 'আবহাওয়া', 'สภาพอากาศ',
   '👩\u200d👩\u200d👧', 'می\u200cخواهم', "it's\u00a0so\u3000"],
)  # fmt: skip
def test_what_every_script_is_written_with_stays(text):
  assert escaped(text) == text


def test_quotes_show_where_a_text_ends_and_long_texts_are_shortened():
  assert quoted(" it's\n") == "' it\\'s\\n'"
  assert shortened('a' * 80) == 'a' * 80
  assert shortened('a' * 81) == 'a' * 79 + '…'
  assert shortened('\x1b' * 30, 10) == '\\x1b\\x1b\\…'
