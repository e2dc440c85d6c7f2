"""Every way to end, by the name that is its first argument."""
import ctypes, mmap, os, signal, sys, time


def take_memory():
    blocks = []
    while True:
        blocks.append(bytearray(b"x" * (1 << 20)))


way = sys.argv[1]
if way == "succeed":
    print("fine")
elif way == "exit":
    sys.exit(3)
elif way == "signal":
    os.kill(os.getpid(), signal.SIGSEGV)
elif way == "sigsys":
    os.kill(os.getpid(), signal.SIGSYS)
elif way == "sleep":
    time.sleep(60)
elif way == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
elif way == "spin":
    while True:
        pass
elif way == "memory":
    take_memory()
elif way == "memory of a child":
    child = os.fork()
    if child == 0:
        take_memory()
    os.waitpid(child, 0)
    os._exit(0)
elif way == "flood":
    for _ in range(8):
        sys.stdout.buffer.write(b"o" * (1 << 20))
elif way == "bomb":
    while True:
        try:
            os.fork()
        except OSError:
            pass
elif way == "disk":
    try:
        with open("/tmp/x", "wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
    except OSError as error:
        print(error.errno)
elif way == "leave":
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
    print("done")
elif way == "foreign":
    # int 0x80 with the i386 number of getpid.
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    print("survived")
elif way == "echo":
    sys.stdout.buffer.write(sys.stdin.buffer.read())
else:
    sys.exit(64)
