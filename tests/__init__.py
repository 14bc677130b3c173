"""The tests. They run in parallel processes, so each process computes with one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
