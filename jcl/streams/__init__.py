"""What is learned: tasks and their examples, from files or made here, and how they become rows."""
