//! Builds `hood-agent` and `hood-unpack` for musl, static, in a target directory of its own, so that one
//! `cargo build` gives a server that carries both.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each a package with one binary of its name.
const BINARIES: [&str; 2] = ["hood-agent", "hood-unpack"];

type Fallible<T> = Result<T, String>;

fn main() {
    if let Err(message) = build() {
        println!("cargo::error={message}");
    }
}

fn build() -> Fallible<()> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let target = match arch.to_str() {
        Some("x86_64") => "x86_64-unknown-linux-musl",
        Some("aarch64") => "aarch64-unknown-linux-musl",
        _ => return Err(format!("there is no agent for {}: x86_64 and aarch64 only", arch.display())),
    };
    let crates = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let workspace = crates.join("..");
    for crate_name in ["hood-agent", "hood-unpack", "hood-sandbox", "hood-wire"] {
        for part in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", crates.join(crate_name).join(part).display());
        }
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(file).display());
    }
    require_target(target)?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = out.join("agent-target");
    compile(&workspace, target, &target_dir)?;
    for binary in BINARIES {
        let built = target_dir.join(target).join("agent").join(binary);
        fs::copy(&built, out.join(binary))
            .map_err(|error| format!("cannot copy {binary} from {}: {error}", built.display()))?;
    }
    Ok(())
}

fn compile(workspace: &Path, target: &str, target_dir: &Path) -> Fallible<()> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(workspace)
        .args(["build", "--locked", "--profile", "agent", "--target", target])
        .args(BINARIES.map(|binary| ["--package", binary]).as_flattened())
        .arg("--target-dir")
        .arg(target_dir);
    // What the outer cargo sets is about this crate and this machine's build, flags and wrappers
    // included; the agent is built the same way whatever they are.
    for (name, _) in env::vars_os() {
        if !is_kept(&name) {
            cargo.env_remove(name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", without_places(workspace, target_dir)?);
    let output = cargo.output().map_err(|error| format!("cannot run cargo for the agent: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("the agent does not build:\n{}", String::from_utf8_lossy(&output.stderr))
        .replace('\n', "\ncargo::error="))
}

/// The flags that keep directories of this machine out of what is built: the same sources give the same
/// bytes wherever they lie.
fn without_places(workspace: &Path, target_dir: &Path) -> Fallible<OsString> {
    let workspace = workspace.canonicalize().map_err(|error| format!("no workspace: {error}"))?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let places = [(Some(workspace), "/fumehood"), (home, "/cargo"), (Some(target_dir.to_owned()), "/target")];
    let mut flags = OsString::new();
    // Of several that fit, the last one counts.
    for (place, name) in places {
        let Some(place) = place else { continue };
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(place);
        flags.push("=");
        flags.push(name);
    }
    Ok(flags)
}

fn is_kept(name: &OsString) -> bool {
    let Some(name) = name.to_str() else { return true };
    let of_a_build = ["CARGO_", "RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC", "DEP_"];
    let of_the_user =
        ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];
    let starts = |list: &[&str]| list.iter().any(|start| name.starts_with(start));
    let exact = ["TARGET", "HOST", "PROFILE", "OPT_LEVEL", "DEBUG", "OUT_DIR", "NUM_JOBS"];
    starts(&of_the_user) || !(starts(&of_a_build) || exact.contains(&name))
}

/// The target's standard library is not there: say how to get it instead of letting rustc wonder.
fn require_target(target: &str) -> Fallible<()> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    let library = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && library.is_dir() {
        return Ok(());
    }
    Err(format!("the agent needs Rust's musl target; add it with: rustup target add {target}"))
}

fn variable(name: &str) -> Fallible<OsString> {
    env::var_os(name).ok_or_else(|| format!("cargo has not set {name}"))
}
