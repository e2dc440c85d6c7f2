//! Black box: makes images of the kinds that people have, with the host's own tools, since none can
//! be downloaded: one static program, a musl tree with busybox, and Debian as debootstrap makes it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use hood_image::Digest;
use serde_json::{Value, json};

pub(crate) fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: foreign-images: {reason}");
}

pub(crate) fn call(command: &mut Command) {
    try_call(command).unwrap_or_else(|error| panic!("{error}"));
}

fn try_call(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    printf("argv");
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    char cwd[256];
    printf("\ncwd %s\nuid %d\n", getcwd(cwd, sizeof cwd), getuid());
    const char *names[] = {"FROM_IMAGE", "HOME", "PATH"};
    for (int i = 0; i < 3; i++) printf("%s=%s\n", names[i], getenv(names[i]) ? getenv(names[i]) : "(none)");
    return 0;
}
"#;

fn compile(source: &str, arguments: &[&str], to: &Path) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("p.c"), source).expect("written");
    call(Command::new("musl-gcc").args(arguments).arg("-o").arg(to).arg(dir.path().join("p.c")));
}

/// A static program and nothing else, owned by root and readable by its user alone.
fn distroless_tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    let app = tree.path().join("app");
    compile(PROGRAM, &["-static", "-O1"], &app);
    fs::set_permissions(&app, fs::Permissions::from_mode(0o4700)).expect("set");
    tree
}

fn distroless_config() -> Value {
    json!({
        "Entrypoint": ["/app"], "Cmd": ["serve"], "User": "nonroot", "WorkingDir": "/srv/data",
        "Env": ["PATH=/:/bin", "FROM_IMAGE=1", "HOME=/home/nonroot"],
    })
}

pub(crate) fn distroless(to: &Path) -> PathBuf {
    let tree = distroless_tree();
    docker_archive(tree.path(), &distroless_config(), to)
}

/// A static program of that source, and nothing else.
pub(crate) fn of_one_program(source: &str, to: &Path) -> PathBuf {
    let tree = tempfile::tempdir().expect("a directory");
    compile(source, &["-static", "-O1"], &tree.path().join("app"));
    docker_archive(tree.path(), &json!({ "Entrypoint": ["/app"] }), to)
}

/// An image of nothing that runs, to be told from the one above.
pub(crate) fn other(to: &Path) -> PathBuf {
    let tree = tempfile::tempdir().expect("a directory");
    fs::write(tree.path().join("other"), "other").expect("written");
    docker_archive(tree.path(), &json!({ "Cmd": ["/other"] }), to)
}

pub(crate) fn distroless_layout(to: &Path) -> PathBuf {
    let tree = distroless_tree();
    layout_archive(tree.path(), &distroless_config(), to)
}

pub(crate) fn alpine(to: &Path) -> Result<PathBuf, String> {
    let busybox = cached("busybox", |dir| {
        try_call(Command::new("apt-get").args(["download", "busybox-static"]).current_dir(dir))?;
        let package = fs::read_dir(dir).map_err(|error| error.to_string())?.flatten().next();
        let package = package.ok_or("apt-get downloaded nothing")?.path();
        try_call(Command::new("dpkg-deb").arg("-x").arg(&package).arg(dir)).map(drop)
    })?;
    let tree = tempfile::tempdir().expect("a directory");
    let at = |path: &str| tree.path().join(path);
    for dir in ["bin", "lib", "etc", "dev", "proc", "tmp", "usr/bin"] {
        fs::create_dir_all(at(dir)).expect("made");
    }
    fs::copy(busybox.join("bin/busybox"), at("bin/busybox")).expect("copied");
    for name in ["sh", "cat", "ls", "id", "touch", "echo", "readlink"] {
        symlink("busybox", at("bin").join(name)).expect("linked");
    }
    let loader = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" };
    fs::copy(format!("/usr/lib/{loader}-linux-musl/libc.so"), at(&format!("lib/ld-musl-{loader}.so.1")))
        .map_err(|error| format!("no shared musl (Debian: apt-get install musl): {error}"))?;
    let program = "#include <stdio.h>\nint main(void) { puts(\"musl, loaded\"); return 0; }";
    compile(program, &["-O1"], &at("usr/bin/dynamic"));
    fs::write(at("etc/alpine-release"), "3.0-like\n").expect("written");
    fs::write(at("etc/shadow"), "root:*\n").expect("written");
    fs::set_permissions(at("etc/shadow"), fs::Permissions::from_mode(0o600)).expect("set");
    Ok(docker_archive(tree.path(), &json!({ "Cmd": ["/bin/sh"] }), to))
}

pub(crate) fn debian(to: &Path) -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("debootstrap needs root".to_owned());
    }
    let tree = cached("debian-bookworm", |dir| {
        let uri = Command::new("apt-get")
            .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
            .output();
        let uris = uri.map_err(|error| error.to_string())?.stdout;
        let uris = String::from_utf8_lossy(&uris);
        let mirror = uris.lines().find(|uri| !uri.contains("security")).ok_or("apt has no mirror")?;
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", "--include=python3", "bookworm"]).arg(dir).arg(mirror);
        try_call(&mut debootstrap)?;
        for waste in
            ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"]
        {
            fs::remove_dir_all(dir.join(waste)).map_err(|error| format!("{waste}: {error}"))?;
        }
        Ok(())
    })?;
    let config = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"],
    });
    Ok(docker_archive(&tree, &config, to))
}

/// A tree that takes long to make, made once for all runs of the tests.
fn cached(name: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/foreign-images");
    let whole = parent.join(name);
    // Two tests that want the same tree at once would make it in the same place.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if whole.is_dir() {
        return Ok(whole);
    }
    let work = parent.join(format!("{name}.{}", std::process::id()));
    fs::create_dir_all(&work).map_err(|error| error.to_string())?;
    let made = make(&work);
    if made.is_ok() && fs::rename(&work, &whole).is_ok() {
        return Ok(whole);
    }
    let _ = fs::remove_dir_all(&work);
    // Another process may have been faster.
    made.and_then(|()| if whole.is_dir() { Ok(whole) } else { Err(format!("cannot keep {name}")) })
}

fn layer(tree: &Path, to: &Path) -> Digest {
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--numeric-owner", "--format=posix"]);
    tar.args(["--pax-option=delete=atime,delete=ctime", "-cf"]).arg(to).arg("-C").arg(tree).arg(".");
    call(&mut tar);
    sha256(to)
}

fn sha256(file: &Path) -> Digest {
    let said = try_call(Command::new("sha256sum").arg(file)).expect("hashed");
    let hex = said.split(' ').next().unwrap_or_default();
    format!("sha256:{hex}").parse().expect("a digest")
}

fn config(execution: &Value, diff_id: Digest) -> String {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    json!({
        "architecture": architecture, "os": "linux", "config": execution,
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
    })
    .to_string()
}

/// As `docker save` wrote before it knew of OCI.
fn docker_archive(tree: &Path, execution: &Value, to: &Path) -> PathBuf {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("0")).expect("made");
    let config = config(execution, layer(tree, &dir.path().join("0/layer.tar")));
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    fs::write(dir.path().join(&name), &config).expect("written");
    let manifest = json!([{ "Config": name, "RepoTags": ["foreign:latest"], "Layers": ["0/layer.tar"] }]);
    fs::write(dir.path().join("manifest.json"), manifest.to_string()).expect("written");
    pack(dir.path(), to)
}

/// As buildkit and podman write, its layer compressed.
fn layout_archive(tree: &Path, execution: &Value, to: &Path) -> PathBuf {
    let dir = tempfile::tempdir().expect("a directory");
    let blobs = dir.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("made");
    let plain = dir.path().join("layer.tar");
    let config = config(execution, layer(tree, &plain));
    call(Command::new("gzip").arg("-n").arg(&plain));
    let packed = fs::read(dir.path().join("layer.tar.gz")).expect("packed");
    fs::remove_file(dir.path().join("layer.tar.gz")).expect("removed");
    let add = |bytes: &[u8], kind: &str| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("written");
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    };
    let layer = add(&packed, "application/vnd.oci.image.layer.v1.tar+gzip");
    let config = add(config.as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let manifest = add(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(dir.path().join("index.json"), index.to_string()).expect("written");
    pack(dir.path(), to)
}

fn pack(dir: &Path, to: &Path) -> PathBuf {
    call(Command::new("tar").arg("-cf").arg(to).arg("-C").arg(dir).arg("."));
    to.to_owned()
}
