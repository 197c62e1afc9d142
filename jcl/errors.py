"""The one kind of error that a user can mend, and the lines that users read about it."""


class UserError(ValueError):
  """Bad input. Its message is one line that names the culprit and says what would be right.

  Launchers print it as `error: …` on standard error and exit with status 2; the library raises it.
  """

  def __init__(self, message: str):
    super().__init__(' '.join(message.splitlines()))  # it may quote what has more
