"""A fork bomb. The process limit holds it; nothing of it outlives the evaluation.
Try: fumehood run --timeout 3s examples/fork.py"""

import os

refused = 0
while refused < 1_000:
    try:
        os.fork()
    except OSError:
        refused += 1
print("the fork was refused", refused, "times")
