"""A first program: what a sandbox looks like from the inside."""

import os
import platform
import sys
import time

print(f"Hello from Python {platform.python_version()}, process {os.getpid()} as user {os.getuid()}.")
print("files here:", sorted(os.listdir(".")))
print("this goes to stderr", file=sys.stderr)

for step in range(1, 4):
    print(f"working … {step}/3", flush=True)
    time.sleep(0.3)

try:
    import socket

    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print("network:", error.strerror or error)

try:
    open("/etc/shadow")
except OSError as error:
    print("/etc/shadow:", error.strerror)
