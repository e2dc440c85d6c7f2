//! Grey box: what is in an image, and that Python lives in it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use hood_dispatch::environment::IMAGE_OWNER;

use super::support::{Host, ensure, has_python, is_root, library_of, open, python, run, shared, temp, tree};

/// Imports, a shell, a child, a thread, names, an encoding; and where everything is said to lie.
const LIFE: &str = r#"
import asyncio, ctypes, decimal, json, locale, multiprocessing, os, pwd, re, socket, sqlite3, ssl
import subprocess, sys, sysconfig, threading, traceback, unittest, zlib, bz2, lzma, hashlib, uuid, csv
shell = subprocess.run("echo from $0", shell=True, capture_output=True, text=True).stdout
assert shell == "from /bin/sh\n", shell
assert sys.prefix == sys.base_prefix == sys.exec_prefix == "/usr", sys.prefix
assert all(p == "" or p.startswith("/usr/lib") for p in sys.path), sys.path
assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)
assert asyncio.run(asyncio.sleep(0, 3)) == 3
assert ctypes.CDLL("libc.so.6" if sys.platform == "linux" else None).getpid() == os.getpid()
assert locale.setlocale(locale.LC_ALL, "") == "C.UTF-8" and sys.stdout.encoding == "utf-8"
assert pwd.getpwuid(1000).pw_dir == "/eval" and socket.gethostbyname("localhost") == "127.0.0.1"
ours, theirs = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=theirs.send, args=("child",))
child.start(); assert ours.recv() == "child"; child.join()
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
values = [str(v) for v in sysconfig.get_config_vars().values()] + list(sysconfig.get_paths().values())
print(json.dumps({"prefixes": [v for v in values if v.startswith("/home") or v.startswith("/root")]}))
"#;

#[test]
fn python_and_its_whole_library_work_with_the_image_as_root() {
    if !has_python() {
        return;
    }
    let image = shared();
    let Some(output) = python(&image, LIFE) else { return };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("thread\n{\"prefixes\": []}"), "{stdout}");
    // Left out of images, or (lib2to3) by Debian packaged apart from the library.
    let everything = r#"
import importlib, sys
left = {"antigravity", "this", "lib2to3", "idlelib", "turtledemo", "turtle", "tkinter", "ensurepip", "nis",
    "msilib", "msvcrt", "nt", "winreg", "winsound"}
failed = []
for name in sorted(getattr(sys, "stdlib_module_names", ())):
    if name in left or name.startswith("_"): continue
    try: importlib.import_module(name)
    except Exception as error: failed.append((name, error))
assert not failed, failed
"#;
    let Some(output) = python(&image, everything) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn everything_belongs_to_nobody_and_has_plain_modes_and_links_that_stay_inside() {
    if !has_python() {
        return;
    }
    let image = shared();
    let owner = if is_root() { IMAGE_OWNER } else { rustix::process::geteuid().as_raw() };
    let tree = tree(&image.root);
    let files = tree.iter().filter(|(_, meta)| meta.is_file());
    assert_eq!(files.clone().count() as u64, image.files);
    assert_eq!(files.map(|(_, meta)| meta.len()).sum::<u64>(), image.size_bytes);
    for (path, meta) in &tree {
        let what = path.display();
        assert_eq!(meta.uid(), owner, "{what}");
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_symlink() {
            let target = fs::read_link(image.root.join(path)).expect("reads");
            let plain = target.is_relative() && !target.starts_with("..");
            assert!(plain && image.root.join(path).exists(), "{what} leads to {}", target.display());
        } else if meta.is_dir() {
            assert_eq!(mode, 0o755, "{what}");
        } else {
            assert!(meta.is_file() && meta.nlink() == 1, "{what}");
            assert!(mode == 0o644 || mode == 0o755, "{what}: {mode:o}");
        }
    }
    for needed in ["bin/sh", "usr/bin/python3", "etc/passwd", "eval", "tmp", "dev", "proc"] {
        assert!(image.root.join(needed).exists(), "{needed}");
    }
}

#[test]
fn what_was_installed_into_python_stays_behind() {
    if !has_python() {
        return;
    }
    let host = Host::copy();
    for dir in
        ["site-packages/evil", "dist-packages", "ensurepip", "idlelib", "tkinter", "turtledemo", "test"]
    {
        fs::create_dir_all(host.library(dir)).expect("makes");
        fs::write(host.library(dir).join("evil.py"), "print('evil')").expect("writes");
    }
    for file in ["evil.pth", "sitecustomize.py", "usercustomize.py", "EXTERNALLY-MANAGED", "libpython.a"] {
        fs::write(host.library(file), "import evil").expect("writes");
    }
    let json = host.library("json");
    fs::create_dir(json.join("tests")).expect("makes");
    fs::write(json.join("tests/evil.py"), "").expect("writes");
    run(Command::new("mkfifo").arg(json.join("evil.fifo")));
    std::os::unix::fs::symlink("/nowhere/evil.py", json.join("evil.py")).expect("links");
    // Bytecode that its source does not vouch for: Python would not take it either.
    fs::create_dir_all(json.join("__pycache__")).expect("makes");
    for stray in ["evil.cpython-311.pyc", "decoder.cpython-27.pyc"] {
        fs::write(json.join("__pycache__").join(stray), "stray").expect("writes");
    }
    let dir = temp();
    let (image, _) = ensure(&open(dir.path(), Some(&host.python())));
    let strange = |path: &Path| {
        let text = path.to_string_lossy().into_owned();
        let words =
            ["evil", "-packages", "customize", ".pth", "EXTERNALLY", "ensurepip", "tkinter", "cpython-27"];
        words.iter().any(|word| text.contains(word)).then_some(text)
    };
    let found: Vec<String> = tree(&image.root).iter().filter_map(|(path, _)| strange(path)).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn rights_beyond_reading_and_running_are_lost_and_links_become_files() {
    if !has_python() {
        return;
    }
    let host = Host::copy();
    let set_uid = host.library("json/tool.py");
    fs::set_permissions(&set_uid, fs::Permissions::from_mode(0o6777)).expect("sets");
    let outside = temp();
    fs::write(outside.path().join("linked"), "x = 1\n").expect("writes");
    std::os::unix::fs::symlink(outside.path().join("linked"), host.library("linked.py")).expect("links");
    let marked = Command::new("setfattr").args(["-n", "user.evil", "-v", "1"]).arg(&set_uid).status();
    let dir = temp();
    let (image, _) = ensure(&open(dir.path(), Some(&host.python())));
    let library = library_of(&image);
    let mode = fs::metadata(library.join("json/tool.py")).expect("is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let linked = fs::symlink_metadata(library.join("linked.py")).expect("is there");
    assert!(linked.is_file() && linked.len() == 6);
    if marked.is_ok_and(|status| status.success()) {
        let output = Command::new("getfattr").arg(library.join("json/tool.py")).output().expect("starts");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("evil"));
    }
}

#[test]
fn bytecode_is_taken_where_its_source_vouches_for_it_and_python_accepts_it() {
    if !has_python() {
        return;
    }
    let host = Host::copy();
    let compile = |module: &str| {
        run(Command::new(host.python()).args(["-I", "-S", "-m", "py_compile"]).arg(host.library(module)));
    };
    compile("json/decoder.py");
    compile("json/encoder.py");
    // Newer than its bytecode.
    host.upgrade(
        "json/encoder.py",
        &format!("{}\n", fs::read_to_string(host.library("json/encoder.py")).expect("reads")),
    );
    let dir = temp();
    let (image, _) = ensure(&open(dir.path(), Some(&host.python())));
    let program = "import sys, json.decoder, importlib._bootstrap_external as b, importlib.util as u\n\
        seen = []\n\
        original = b.cache_from_source\n\
        import importlib, os\n\
        path = u.cache_from_source(json.decoder.__file__)\n\
        data = open(path, 'rb').read()\n\
        stat = os.stat(json.decoder.__file__)\n\
        b._validate_timestamp_pyc(data, int(stat.st_mtime), stat.st_size, 'json.decoder', {})\n\
        print('valid', os.path.exists(u.cache_from_source(json.encoder.__file__)))";
    let Some(output) = python(&image, program) else { return };
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "valid False\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
