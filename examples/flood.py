"""Writes 100 MB. What is kept is bounded; the verdict is the program's own.
Try: fumehood run examples/flood.py | wc -c"""

import sys

line = b"x" * 99 + b"\n"
for _ in range(1_000):
    sys.stdout.buffer.write(line * 1_000)
