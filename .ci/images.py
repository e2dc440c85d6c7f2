"""Reads the two images that `cargo xtask images` wrote into a directory, and runs what they hold.

Called by .ci/images. Every `must` is a promise of docs/images.md; the first that is broken ends it.
"""

import ctypes
import hashlib
import http.client
import http.server
import io
import json
import os
import pathlib
import re
import signal
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

NOBODY = 65532
TIME = 315_619_200  # 2 January 1980
PT_DYNAMIC, PT_INTERP = 2, 3
DT_NEEDED = 1
CLONE_NEWNS, MNT_DETACH, SYS_PIVOT_ROOT = 0x20000, 2, 155
DEVICES = ("null", "zero", "full", "random", "urandom")
# A busy machine's, for what takes a moment.
PATIENCE_S = 60


def must(holds, what):
    if not holds:
        sys.exit(f"images: {what}")


class Image:
    """One image of a layout in a tar file, with every digest held against what it names."""

    def __init__(self, path):
        with tarfile.open(path) as archive:
            self.members = {member.name: archive.extractfile(member).read() for member in archive}
            must({(m.uid, m.gid, m.mtime) for m in archive} == {(0, 0, TIME)}, f"{path}: an owner or a time")
        (entry,) = json.loads(self.members["index.json"])["manifests"]
        self.digest = entry["digest"]
        manifest = json.loads(self.blob(entry))
        self.config = json.loads(self.blob(manifest["config"]))
        (layer,) = manifest["layers"]
        with tarfile.open(fileobj=io.BytesIO(self.blob(layer)), mode="r:gz") as tree:
            self.files = tree.getmembers()
            self.program = tree.extractfile(self.files[0]).read()
        self.bill = json.loads(pathlib.Path(f"{path}.cdx.json").read_text())

    def blob(self, descriptor):
        content = self.members["blobs/" + descriptor["digest"].replace(":", "/")]
        must("sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"], "a digest is wrong")
        must(len(content) == descriptor["size"], "a size is wrong")
        return content


def headers(program):
    """The program's segments: kind, offset, size."""
    must(program[:6] == b"\x7fELF\x02\x01", "the program is no ELF of 64 bits")
    (at,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    for i in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", program, at + i * size)
        yield kind, offset, length


def is_static(program):
    for kind, offset, length in headers(program):
        if kind == PT_INTERP:
            return False
        if kind == PT_DYNAMIC:
            tags = struct.iter_unpack("<qQ", program[offset : offset + length])
            if any(tag == DT_NEEDED for tag, _ in tags):
                return False
    return True


def check(image, name, path):
    """What holds of both."""
    must(len(image.files) == 1, f"{name}: it holds {[file.name for file in image.files]}")
    (file,) = image.files
    must((file.name, file.isfile(), file.mode) == (path, True, 0o755), f"{name}: it holds {file.name}, {file.mode:o}")
    must((file.uid, file.gid, file.mtime) == (0, 0, TIME), f"{name}: its file has an owner or a time")
    must(is_static(image.program), f"{name}: it is not static")
    config = image.config["config"]
    must(config["User"] == f"{NOBODY}:{NOBODY}", f"{name}: it runs as {config['User']}")
    must(config["Entrypoint"] == ["/" + path], f"{name}: its entrypoint is {config['Entrypoint']}")
    labels = config["Labels"]
    must(labels["org.opencontainers.image.title"] == name, f"{name}: its labels are {labels}")
    must(labels["dev.fumehood.read-only-root"] == "true", f"{name}: its labels are {labels}")
    # The same sources are the same image wherever they lie: nothing of this machine is in it.
    cargo = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    for place in (os.getcwd(), cargo):
        at = image.program.find(place.encode())
        must(at < 0, f"{name}: a path of this machine is in it: {image.program[at : at + 120]!r}")
    # A compiler's `__DATE__`. What it is for a build of another day, its digest would show.
    dates = set(re.findall(rb"\0(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 0-3]\d \d{4}\0", image.program))
    must(dates <= {b"\0Jan  2 1980\0"}, f"{name}: the day of its build is in it: {dates}")
    bill = image.bill
    must(bill["metadata"]["component"]["version"] == image.digest, f"{name}: the list is of another image")
    return {component["name"]: component["version"] for component in bill["components"]}


def container(root, data):
    """What a container's runtime mounts: the image's root, read-only, with /proc, the usual devices and a
    volume. The mounts are seen by this process alone, and end with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    must(libc.unshare(CLONE_NEWNS) == 0, "no namespace for mounts")

    def mount(*arguments):
        subprocess.run(["mount", *map(str, arguments)], check=True)

    for directory in (root / "proc", root / "dev", root / "etc", root / "tmp", data):
        directory.mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost collector.test\n")
    for device in DEVICES:
        (root / "dev" / device).touch()
    mount("--make-rprivate", "/")
    mount("--bind", root, root)
    mount("-o", "remount,bind,ro", root)
    for device in DEVICES:
        mount("--bind", f"/dev/{device}", root / "dev" / device)
    mount("-t", "proc", "proc", root / "proc")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "tmp")
    mount("-t", "tmpfs", "-o", f"uid={NOBODY},gid={NOBODY},mode=0700", "tmpfs", data)

    def enter():
        # A root of its own and not `chroot`, in which the kernel would make no place.
        must(libc.unshare(CLONE_NEWNS) == 0, "no namespace for mounts")
        os.chdir(root)
        must(libc.syscall(SYS_PIVOT_ROOT, b".", b".") == 0, "the root cannot be changed")
        must(libc.umount2(b".", MNT_DETACH) == 0, "the old root stays")
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    return {"preexec_fn": enter, "stdin": subprocess.DEVNULL}


def call(port, path, token=None, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} if token else {}
    connection.request("POST" if body else "GET", path, body=body and json.dumps(body), headers=given)
    answer = connection.getresponse()
    return answer.status, answer.read()


def until(what, holds):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    sys.exit(f"images: {what}, after {PATIENCE_S} s")


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes traces. That one arrives shows that names are found and nobody's certificates are missed."""

    paths = []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.paths.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def serve(image, root):
    """The server as a container, without a certificate of anybody's."""
    data = root / "var/lib/fumehood"
    inside = container(root, data)
    config = image.config["config"]
    env = dict(pair.split("=", 1) for pair in config["Env"])
    said = subprocess.run([*config["Entrypoint"], "--version"], env=env, capture_output=True, text=True, check=True, **inside)
    must(image.config["config"]["Labels"]["org.opencontainers.image.version"] in said.stdout, f"its version: {said.stdout}")
    print("in its own root:", said.stdout.strip())
    # Its own image is something that it can run.
    with (root.parent / "fumehood.tar").open("rb") as archive:
        command = [*config["Entrypoint"], "env", "import", "-", "--name", "itself"]
        imported = subprocess.run(command, env=env, capture_output=True, text=True, **inside | {"stdin": archive})
    must(imported.returncode == 0, f"nobody cannot import: {imported.stderr}")

    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    env["FUMEHOOD_TELEMETRY_OTLP_ENDPOINT"] = f"http://collector.test:{collector.server_port}"
    env["FUMEHOOD_SANDBOX_POLICY"] = "development"
    port = free_port()
    command = [*config["Entrypoint"], *config["Cmd"], "--listen", f"127.0.0.1:{port}"]
    log = root.parent / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=out, **inside)
    try:
        def answers():
            must(server.poll() is None, f"the server ended: {log.read_text()}")
            try:
                return call(port, "/healthz")[0] == 200
            except OSError:
                return False

        until("the server does not answer", answers)
        token = (data / "token").read_text().strip()
        status, version = call(port, "/v1/version", token)
        must(status == 200, f"/v1/version: {status} {version}")
        print("as", NOBODY, "it answers:", version.decode().strip())
        submission = {"environment": "itself", "args": ["--version"]}
        status, answer = call(port, "/v1/evaluations?wait=50s", token, submission)
        ended = json.loads(answer)
        must(status in (200, 201) and ended["verdict"] == "succeeded", f"an evaluation: {status} {answer}\n{log.read_text()}")
        must(ended["stdout"]["preview"] == said.stdout, f"an evaluation: {answer}")
        print("and runs what it is given:", ended["environment"])
        status, ready = call(port, "/readyz")
        must(status == 200, f"/readyz: {status} {ready}")
        server.send_signal(signal.SIGTERM)
        must(server.wait(PATIENCE_S) == 0, f"it does not end in order: {log.read_text()}")
    finally:
        server.kill()
        server.wait()
        collector.shutdown()
    must("/v1/traces" in Collector.paths, f"no trace arrived: {log.read_text()}")


def main():
    out = pathlib.Path(sys.argv[1])
    server, agent = Image(out / "fumehood.tar"), Image(out / "hood-agent.tar")
    crates = check(server, "fumehood", "usr/bin/fumehood")
    must(crates.keys() >= {"hood-server", "hood-agent", "hood-unpack", "tokio", "libsqlite3-sys", "mimalloc", "rust"}, f"{crates}")
    crates = check(agent, "hood-agent", "hood-agent")
    must(crates.keys() >= {"hood-agent", "hood-sandbox", "hood-wire", "rust"} and "tokio" not in crates, f"{crates}")
    must(agent.program in server.program, "the agent in its image is not the one that the server carries")
    print("both images hold one static program each, and what is said of them")
    if os.geteuid() != 0:
        print("SKIPPED: images: needs root to run them as a container does; run it with sudo")
        return
    with tempfile.TemporaryDirectory(prefix="fumehood-images.") as scratch:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o755)
        root = scratch / "root"
        program = root / "usr/bin/fumehood"
        program.parent.mkdir(parents=True)
        program.write_bytes(server.program)
        program.chmod(0o755)
        shutil.copy(out / "fumehood.tar", scratch)
        try:
            serve(server, root)
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", root], check=True)
        import_and_run(out, scratch, program)


def import_and_run(out, scratch, program):
    """The static server makes sandboxes as any other does, of this host's Python too."""
    env = {"PATH": os.environ["PATH"], "FUMEHOOD_DATA_DIR": str(scratch / "data"), "FUMEHOOD_SANDBOX_POLICY": "development"}

    def fumehood(*arguments):
        ran = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        must(ran.returncode == 0, f"fumehood {' '.join(map(str, arguments))}: {ran.returncode}\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    must(fumehood("run", "--quiet", "examples/hello.py").strip() != "", "hello.py says nothing")
    fumehood("env", "import", out / "hood-agent.tar", "--name", "agent")
    made = json.loads(fumehood("env", "inspect", "agent", "-o", "json"))
    must((made["state"], made["image"]["entrypoint"]) == ("ready", ["/hood-agent"]), f"the agent's image: {made}")


main()
