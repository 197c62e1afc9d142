"""Where the turns of the assistant stand in a rendered text, in letters."""

import pytest

from jcl.batching import chat_turns
from jcl.errors import UserError
from jcl.streams.chat import Conversation
from jcl.streams.chat_templates import NAMED, ChatTemplate

ASK, SAY = {'role': 'user', 'content': 'a lake'}, {'role': 'assistant', 'content': ' blue '}
THOUGHT = SAY | {'reasoning_content': 'hm'}
TALK = [ASK, SAY, ASK | {'content': 'a frog'}, SAY | {'content': 'green'}]
THINKS = (
  "{% for m in messages %}{{ '[' + m.role + ']' }}{% if m.reasoning_content %}"
  "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content + '[end]' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def template(source):
  return ChatTemplate(NAMED.get(source, source), {'bos_token': '<s>', 'eos_token': '</s>'})


def turns(source, messages, first=0, every=True):
  found = chat_turns.rendered(template(source), Conversation(messages, first), every)
  return [found.text[span.start : span.end] for span in found.spans], found.text[: found.start]


@pytest.mark.parametrize('source', [n for n in NAMED if n != 'llama2'])
def test_a_turn_begins_behind_the_generation_prompt(source):
  said, asked = turns(source, TALK)
  assert [words.split('<')[0].strip() for words in said] == ['blue', 'green']
  assert asked == template(source).render(TALK[:-1], prompt=True)
  assert asked == chat_turns.question(template(source), TALK[:-1])


def test_a_template_without_a_generation_prompt_has_the_space_in_the_turn():
  said, asked = turns('llama2', TALK)
  assert said == [' blue </s>', ' green </s>']
  assert asked.endswith('a frog [/INST]')


def test_reasoning_is_part_of_a_turn():
  said, asked = turns(THINKS, [ASK, THOUGHT])
  assert said == ['<think>hm</think> blue [end]']
  assert asked == '[user]a lake[end][assistant]'
  assert chat_turns.around_answers(template(THINKS)) == ('[end]', ['</think>'])


def test_a_template_that_trims_and_one_that_writes_no_answer():
  trims = template("{% for m in messages %}{{ m.content | trim + '|' }}{% endfor %}")
  assert chat_turns.rendered(trims, Conversation(TALK[:2]), True).spans[0][:2] == (7, 11)
  with pytest.raises(UserError, match='writes no answer'):
    chat_turns.question(template('{{ messages[0].content }}'), [ASK])


def test_texts_of_a_message_are_found_and_changed_wherever_they_stand():
  message = {'content': 'a', 'calls': [{'name': 'b', 'count': 3}]}
  assert chat_turns.texts_of(message) == ['a', 'b']
  changed = chat_turns.mapped(message, str.upper)
  assert changed == {'content': 'A', 'calls': [{'name': 'B', 'count': 3}]}
