"""What code does with the standard library, and what the least list keeps it from.

Each function is one use; its name is printed with how it went. `held` ones must be refused."""
import asyncio, concurrent.futures, contextlib, ctypes, datetime, faulthandler, fcntl, gc, glob, gzip, hashlib
import io, json, locale, logging, mmap, multiprocessing, os, pathlib, platform, random, resource, secrets, select
import selectors, shutil, signal, socket, statistics, struct, subprocess, sys, tarfile, tempfile, threading, time
import traceback, tracemalloc, unittest, uuid, zipfile

SCRATCH = pathlib.Path(tempfile.mkdtemp())


def files():
    (SCRATCH / "a").write_text("x" * 100_000)
    shutil.copy2(SCRATCH / "a", SCRATCH / "b")
    shutil.copytree(SCRATCH, "/tmp/copied")
    shutil.rmtree("/tmp/copied")
    os.rename(SCRATCH / "b", SCRATCH / "c")
    os.replace(SCRATCH / "c", SCRATCH / "b")
    (SCRATCH / "d" / "e").mkdir(parents=True)
    assert len(list(os.walk(SCRATCH))) == 3 and glob.glob(f"{SCRATCH}/**/e", recursive=True)
    (SCRATCH / "a").chmod(0o600)
    os.utime(SCRATCH / "a")
    os.access(SCRATCH / "a", os.R_OK)
    with open(SCRATCH / "a", "r+") as file:
        file.truncate(10)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.fsync(file.fileno())
    (SCRATCH / "d" / "e").rmdir()
    os.unlink(SCRATCH / "b")
    here = os.getcwd()
    os.chdir("/tmp")
    os.chdir(here)


def temporary_files():
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
        file.seek(0)
        assert file.read() == b"x"
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"y" * 8192)
        file.flush()
        with mmap.mmap(file.fileno(), 8192) as mapped:
            mapped[0] = 1
            mapped.flush()


def archives():
    (SCRATCH / "f").write_text("archived")
    with zipfile.ZipFile(SCRATCH / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(SCRATCH / "f", "f")
    zipfile.ZipFile(SCRATCH / "z.zip").extractall(SCRATCH / "z")
    with tarfile.open(SCRATCH / "t.tgz", "w:gz") as archive:
        archive.add(SCRATCH / "f", "f")
    tarfile.open(SCRATCH / "t.tgz").extractall(SCRATCH / "t")
    assert (SCRATCH / "z" / "f").read_text() == (SCRATCH / "t" / "f").read_text() == "archived"


def a_database():
    try:
        import sqlite3
    except ImportError:
        return
    database = sqlite3.connect(SCRATCH / "s.db")
    for mode in ("delete", "wal"):
        database.execute(f"pragma journal_mode={mode}")
        database.execute(f"create table {mode}_(a)")
        database.executemany(f"insert into {mode}_ values (?)", [(n,) for n in range(1000)])
        database.commit()
        assert database.execute(f"select sum(a) from {mode}_").fetchone() == (499_500,)
    database.close()


def threads():
    total, lock = [0], threading.Lock()

    def add():
        time.sleep(0.001)
        with lock:
            total[0] += 1

    many = [threading.Thread(target=add) for _ in range(8)]
    [one.start() for one in many]
    [one.join() for one in many]
    assert total == [8]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda n: n * n, range(100))) == 328_350
    threading.stack_size(1 << 20)
    more = threading.Thread(target=add)
    more.start()
    more.join()


def an_event_loop():
    async def main():
        queue = asyncio.Queue()

        async def worker():
            for n in range(3):
                await asyncio.sleep(0.001)
                await queue.put(n)

        task = asyncio.create_task(worker())
        assert [await queue.get() for _ in range(3)] == [0, 1, 2]
        await task
        assert await asyncio.to_thread(lambda: 7) == 7
        woken = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, woken.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await woken.wait()

    asyncio.run(main())


def signals_and_timers():
    rang = []
    signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    while not rang:
        time.sleep(0.001)
    signal.alarm(1)
    signal.alarm(0)
    signal.raise_signal(signal.SIGALRM)
    assert len(rang) == 2


def pipes_and_waiting():
    reader, writer = os.pipe()
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"
    os.set_blocking(reader, False)
    assert select.select([], [writer], [], 0)[1] == [writer]
    poll = select.poll()
    poll.register(writer)
    assert poll.poll(0)
    with selectors.DefaultSelector() as selector:
        selector.register(writer, selectors.EVENT_WRITE)
        assert selector.select(0)
    one = os.dup(reader)
    os.dup2(writer, one)
    assert not os.isatty(one)


def about_itself():
    assert os.getpid() > 0 and os.getuid() == 1000 and os.cpu_count() and os.sched_getaffinity(0)
    os.getppid(), os.times(), os.uname(), platform.platform(), shutil.get_terminal_size()
    resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_AS)
    time.process_time(), time.thread_time(), time.monotonic(), time.localtime(), datetime.datetime.now()
    locale.getlocale()
    os.umask(os.umask(0o22))


def chance():
    random.seed()
    secrets.token_hex(), uuid.uuid1(), uuid.uuid4(), os.urandom(8)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1000)


def memory():
    held = bytearray(64 << 20)
    held += bytearray(32 << 20)
    del held
    gc.collect()
    tracemalloc.start()
    tracemalloc.stop()
    faulthandler.enable()


def foreign_functions():
    assert ctypes.CDLL(None).getpid() == os.getpid()
    assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)(3) == 4


def a_grader():
    class Case(unittest.TestCase):
        def test(self):
            self.assertEqual(statistics.median([3, 1, 2]), 2)

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Case)
    assert unittest.TextTestRunner(stream=io.StringIO()).run(suite).wasSuccessful()
    logging.getLogger("x").warning("to stderr")
    json.loads(json.dumps({"a": [1.5, None]}))


def another_process():
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def a_forked_process():
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def a_pool_of_processes():
    with multiprocessing.Pool(1) as pool:
        pool.map(abs, [-1])


def a_socket():
    socket.socket().close()


def a_memory_file():
    os.close(os.memfd_create("x"))


def a_link():
    os.symlink("a", SCRATCH / "link")


def another_limit():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def a_file_systems_size():
    shutil.disk_usage("/tmp")


def another_niceness():
    os.nice(1)


USES = [files, temporary_files, archives, a_database, threads, an_event_loop, signals_and_timers,
        pipes_and_waiting, about_itself, chance, memory, foreign_functions, a_grader]
BEYOND = [another_process, a_forked_process, a_pool_of_processes, a_socket, a_memory_file, a_link, another_limit,
          a_file_systems_size, another_niceness]

for use in USES + BEYOND:
    try:
        use()
        print("works:", use.__name__, flush=True)
    # ValueError is how `resource` words EPERM.
    except (OSError, ValueError) as error:
        print("refused:", use.__name__, error, flush=True)
        if use in USES:
            traceback.print_exc()
