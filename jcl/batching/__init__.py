"""How examples become arrays: text formats, packed text, the order of rows, batches."""
