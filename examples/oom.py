"""Takes memory until there is none. Try: fumehood run --memory 64MiB examples/oom.py"""

kept = []
while True:
    kept.append(bytearray(8 << 20))
    print(f"{8 * len(kept)} MiB", flush=True)
