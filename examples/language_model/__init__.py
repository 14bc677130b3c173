"""A small language model on the text of Python's own standard library: corpus, model, training, picture."""
