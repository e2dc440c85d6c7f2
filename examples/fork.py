"""A fork bomb. The process limit holds it, and nothing of it outlives the evaluation.
Try: fumehood run --processes 16 examples/fork.py"""

import os

first = os.getpid()
refused = 0
while refused < 100:
    try:
        os.fork()
    except OSError:
        refused += 1
if os.getpid() == first:
    print("starting another process was refused", refused, "times")
