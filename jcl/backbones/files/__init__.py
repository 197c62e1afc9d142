"""Models and adapters in files: Hugging Face folders, GGUF, PEFT."""
