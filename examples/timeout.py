"""Ignores SIGTERM and never ends. Try: fumehood run --timeout 2s examples/timeout.py"""

import signal
import time

signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM: no.", flush=True))
started = time.monotonic()
while True:
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    time.sleep(1)
