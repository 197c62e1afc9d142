"""A small run of each kind under an audit hook, which writes down what must never happen.

    python -m support.audited FOLDER

FOLDER holds `model`, with programs planted in it, and gets `heard.json`: [[event, what], …].
"""

import json
import os
import pathlib
import sys
import traceback

SILENT = ('pickle.find_class', 'marshal.loads', 'os.system', 'os.exec', 'os.posix_spawn', 'os.fork')
folder = pathlib.Path(sys.argv[1]).resolve()
heard: list[list[str]] = []


def hook(event: str, given: tuple) -> None:
  """Notes events; code of the folder, and addresses outside this machine."""
  if event in ('exec', 'compile', 'import', 'open') and str(folder) not in str(given):
    return
  if event == 'exec' and pathlib.Path(given[0].co_filename).is_relative_to(folder):
    heard.append([event, given[0].co_filename])
  if event == 'open' and str(given[0]).endswith(('.py', '.bin', '.pkl')):
    heard.append([event, str(given[0])])
  if event in ('socket.connect', 'socket.getaddrinfo', 'subprocess.Popen'):
    heard.append([event, f'{given[:2]} {"".join(traceback.format_stack(limit=6))}'])
  if event in SILENT and 'importlib' not in (caller := sys._getframe(1).f_code.co_filename):
    heard.append([event, f'{given} {caller}'])


def main() -> None:
  """Trains from scratch and from the model folder, evaluates, exports, and reads data."""
  from jcl import learning
  from jcl.backbones.files import hf
  from jcl.config import StreamConfig
  from jcl.streams import load
  from jcl.trained_run import TrainedRun
  from support import runs

  sys.addaudithook(hook)
  one = {'max_tasks': 1, 'max_train_per_task': 8, 'max_test_per_task': 4}
  made = runs.config('lamol', stream=one, train={'epochs': 1})
  learning.run(made, folder / 'run', quiet=True)
  reopened = TrainedRun(made, folder / 'run')
  list(reopened.scores('test'))
  reopened.model.save(folder / 'exported')
  hf.load(str(folder / 'exported'))
  hf.load(str(folder / 'model'))
  hf.load(str(folder / 'older'))  # whose tokenizer transformers converts
  load(StreamConfig(name='files', path=str(folder / 'data')))


if __name__ == '__main__':
  main()
  (folder / 'heard.json').write_text(json.dumps(heard))
  os._exit(0)
