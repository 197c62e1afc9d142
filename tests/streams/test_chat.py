"""Conversations as people store them, and the templates that render them."""

import datetime
import json

import numpy as np
import pytest

from jcl.config import StreamConfig
from jcl.errors import UserError
from jcl.streams import Stream, load
from jcl.streams.chat import conversation, of_json
from jcl.streams.chat_templates import ChatTemplate

ASK, SAY = {'role': 'user', 'content': 'a lake'}, {'role': 'assistant', 'content': 'blue'}
SYSTEM = {'role': 'system', 'content': 'name it'}


def test_messages_become_text_and_answer():
  talk = conversation([ASK, SAY], None, 'x')
  assert (talk.text, talk.answer) == ('a lake', 'blue')
  longer = conversation(np.array([SYSTEM, ASK, SAY, ASK, SAY], object), None, 'x')
  assert longer.text == 'system: name it\nuser: a lake\nassistant: blue\nuser: a lake'
  assert of_json(longer.to_json()) == longer


@pytest.mark.parametrize('completion', ['blue', [SAY]])
def test_the_loss_counts_a_completion_alone(completion):
  talk = conversation([ASK, SAY, ASK], completion, 'x')
  assert (talk.first, talk.answer) == (3, 'blue')


def test_share_gpt_and_parts_of_text():
  talk = conversation(
    [{'from': 'human', 'value': 'a lake'}, {'from': 'gpt', 'value': 'blue'}], None, 'x'
  )
  assert talk.messages == [ASK, SAY]
  parts = [{'type': 'text', 'text': 'a '}, {'type': 'text', 'text': 'lake'}]
  assert conversation([ASK | {'content': parts, 'name': None}, SAY], None, 'x').messages[0] == ASK


@pytest.mark.parametrize(
  ('messages', 'message'),
  [
    ([ASK, SAY, ASK], "^x: the conversation ends with a message of 'user'"),
    ([SAY], '^x: nothing stands before the answer'),
    ([ASK, SAY | {'content': ' '}], '^x: the last answer is empty'),
    ([ASK, SAY | {'content': None}], r'^x: messages\[1\]: the content is missing'),
    ([ASK | {'content': [{'type': 'image'}]}, SAY], r'^x: messages\[0\]: the content is a list'),
    ([ASK | {'role': 3}, SAY], r'^x: messages\[0\]: the role is 3'),
    ([ASK, 'blue'], r'^x: messages\[1\] is a str'),
    ([ASK | {'content': 'a\0'}, SAY], r'^x: messages\[0\]: the content holds a NUL'),
    ([ASK | {'more': object()}, SAY], r'^x: messages\[0\]: holds what JSON cannot'),
    ([ASK, SAY | {'weight': 0.5}], r'^x: messages\[1\]: weight is 0\.5: give 0 or 1'),
    ([ASK, SAY | {'weight': '0'}], r"^x: messages\[1\]: weight is '0': give 0 or 1"),
  ],
)
def test_malformed_messages_are_one_line(messages, message):
  with pytest.raises(UserError, match=message):
    conversation(messages, None, 'x')


ROWS = {
  'messages': {'messages': [ASK, SAY]},
  'conversations': {'conversations': [{'from': 'human', 'value': 'a lake'},
                                      {'from': 'gpt', 'value': 'blue'}]},
  'prompt': {'prompt': [ASK], 'completion': [SAY]},
  'texts': {'prompt': 'a lake', 'completion': 'blue'},
}  # fmt: skip


@pytest.mark.parametrize('kind', ROWS)
def test_rows_of_conversations_in_python_and_in_files(tmp_path, kind):
  row = ROWS[kind]
  made = Stream.from_rows({'x': [row]}, test={'x': [row]}, overlap='keep')
  (example,) = made.tasks[0].train
  assert (example.text, example.answer) == ('a lake', 'blue')
  assert bool(example.messages) == (kind != 'texts')
  (tmp_path / 'a.jsonl').write_text(json.dumps(row), 'utf-8')
  text, answer = [*row, *row][:2] if len(row) == 1 else row
  task = {'name': 'x', 'train': 'a.jsonl', 'test': 'a.jsonl', 'text': text, 'answer': answer}
  (tmp_path / 'manifest.json').write_text(json.dumps({'tasks': [task]}), 'utf-8')
  read = load(StreamConfig(name='files', path=str(tmp_path), overlap='keep'))
  found = read.tasks[0].train[0]
  assert (found.text, found.answer, found.messages) == ('a lake', 'blue', example.messages)


def test_a_number_is_a_content_as_it_is_written(tmp_path):
  rows = '{"m": [{"role": "user", "content": 1.50}, {"role": "assistant", "content": 3}]}'
  (tmp_path / 'a.jsonl').write_text(rows, 'utf-8')
  task = {'name': 'x', 'train': 'a.jsonl', 'test': 'a.jsonl', 'text': 'm', 'answer': 'm'}
  (tmp_path / 'manifest.json').write_text(json.dumps({'tasks': [task]}), 'utf-8')
  (read,) = load(StreamConfig(name='files', path=str(tmp_path), overlap='keep')).tasks[0].train
  assert (read.text, read.answer) == ('1.50', '3')
  assert [m['content'] for m in of_json(read.messages).messages] == ['1.50', '3']
  assert conversation([ASK, SAY | {'content': 3}], None, 'x').answer == '3'


AS_COLUMNS = {'role': ['user', 'assistant'], 'content': ['a lake', 'blue']}
TOOL = {'role': 'assistant', 'content': 'I look', 'tool_calls': [{'arguments': {'x': 5, 'y': 1.0}}]}


@pytest.mark.parametrize('value', [AS_COLUMNS, json.dumps([ASK, SAY]), [ASK, SAY]])
def test_messages_in_any_form_that_files_hold(value):
  (example,) = Stream.from_rows({'x': [{'messages': value}]}, test={'x': [{'messages': value}]},
                                overlap='keep').tasks[0].train  # fmt: skip
  assert of_json(example.messages).messages == [ASK, SAY]


def test_messages_in_csv_and_parquet(tmp_path):
  datasets = pytest.importorskip('datasets')
  table = datasets.Dataset.from_list([{'messages': [ASK, SAY]}] * 2)
  table.to_parquet(tmp_path / 'a.parquet')
  (tmp_path / 'a.csv').write_text(
    'messages\n"' + json.dumps([ASK, SAY]).replace('"', '""') + '"\n', 'utf-8'
  )
  task = {'name': 'x', 'train': 'a.csv', 'test': 'a.parquet'}
  manifest = {'text': 'messages', 'answer': 'messages', 'tasks': [task]}
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest), 'utf-8')
  read = load(StreamConfig(name='files', path=str(tmp_path), overlap='keep')).tasks[0]
  assert read.train[0].messages == read.test[0].messages != ''
  given = Stream.from_datasets({'x': table}, text='messages', answer='messages', overlap='keep',
                               test={'x': table})  # fmt: skip
  assert given.tasks[0].train[0].messages == read.train[0].messages


def test_numbers_in_a_message_stay_numbers(tmp_path):
  (tmp_path / 'a.jsonl').write_text(json.dumps({'messages': [ASK, TOOL, SAY]}), 'utf-8')
  task = {'name': 'x', 'train': 'a.jsonl', 'test': 'a.jsonl'}
  manifest = {'text': 'messages', 'answer': 'messages', 'tasks': [task]}
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest), 'utf-8')
  stream = load(StreamConfig(name='files', path=str(tmp_path), overlap='keep'))
  assert of_json(stream.tasks[0].train[0].messages).messages[1] == TOOL


@pytest.mark.parametrize('value', ['a lake', [], ['a lake'], 3])
def test_what_is_no_conversation_is_never_both_text_and_answer(value):
  with pytest.raises(
    UserError, match=r"^x/train\[0\]: field 'messages' is .*: give a list of mess"
  ):
    Stream.from_rows({'x': [{'messages': value}]})


@pytest.mark.parametrize(
  ('row', 'message'),
  [({'prompt': 'a lake', 'completion': [SAY]}, ASK), ({'prompt': ASK, 'completion': SAY}, ASK)],
)
def test_a_text_or_one_message_may_stand_for_a_list(row, message):
  stream = Stream.from_rows({'x': [row]}, test={'x': [row]}, overlap='keep')
  talk = of_json(stream.tasks[0].train[0].messages)
  assert talk.messages == [message, SAY]
  assert talk.first == 1


def test_a_malformed_conversation_names_its_file_and_line(tmp_path):
  (tmp_path / 'a.jsonl').write_text(json.dumps({'messages': [SAY, ASK]}), 'utf-8')
  task = {'name': 'x', 'train': 'a.jsonl', 'test': 'a.jsonl'}
  manifest = {'text': 'messages', 'answer': 'messages', 'tasks': [task]}
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest), 'utf-8')
  with pytest.raises(UserError, match=r'/a\.jsonl:1: the conversation ends'):
    load(StreamConfig(name='files', path=str(tmp_path), overlap='keep'))


def test_other_messages_are_another_stream():
  answers = [Stream.from_rows({'x': [{'messages': [SYSTEM | {'content': c}, ASK, SAY]}]},
                              test={'x': [{'messages': [ASK, SAY]}]}, overlap='keep')
             for c in 'ab']  # fmt: skip
  assert answers[0].digest != answers[1].digest


def test_a_template_takes_the_date_that_it_is_given_for_today():
  source = "{{ strftime_now('%d %b %Y') }}"
  assert ChatTemplate(source, {}, '2024-02-29').render([ASK]) == '29 Feb 2024'
  today = datetime.date.today().strftime('%d %b %Y')
  assert ChatTemplate(source, {}).render([ASK]) == today
  assert ChatTemplate(source, {}, '2024-03-01').render([ASK]) == '01 Mar 2024'


def test_values_are_quoted_in_the_users_script(tmp_path):
  rows = [{'messages': '天气'}]
  with pytest.raises(UserError, match=r"field 'messages' is '天气'"):
    Stream.from_rows({'x': rows})
  (tmp_path / 'a.jsonl').write_text(json.dumps({'الطقس': {'天气': '\u202e'}, 'x': 'a'}), 'utf-8')
  task = {'name': 'x', 'train': 'a.jsonl', 'test': 'a.jsonl', 'text': 'x'}
  manifest = {'label': 'الطقس', 'tasks': [task]}
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest), 'utf-8')
  with pytest.raises(UserError, match=r'column .الطقس. is \{"天气": "\\u202e"\}'):
    load(StreamConfig(name='files', path=str(tmp_path), overlap='keep'))


HOSTILE = {
  'no template': ('{% for %}', 'is no Jinja template'),
  'refusal': ("{{ raise_exception('no system') }}", r'refuses the conversation \(no system\)'),
  'python': ("{{ ''.__class__.__mro__ }}", 'refuses'),
  'change': ("{% set _ = messages.append(1) %}", 'refuses'),
  'file': ("{% include '/etc/passwd' %}", 'refuses'),
  'power': ('{{ 9 ** 999999999 }}', 'refuses'),
  'text': ("{{ 'a' * 9999999999 }}", 'refuses'),
  'format': ("{{ '%999999999d' % 1 }}", 'refuses'),
  'loops': ('{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}',
            'too many turns'),
  'missing': ('{{ messages[7].content.x }}', 'refuses'),
}  # fmt: skip


@pytest.mark.parametrize('case', HOSTILE)
def test_a_hostile_template_is_one_line(case):
  source, message = HOSTILE[case]
  with pytest.raises(UserError, match=message) as error:
    ChatTemplate(source, {}).render([ASK, SAY])
  assert len(str(error.value).splitlines()) == 1
