//! Black box: a real registry, started for the test on the loopback address.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::encrypted::Identity;
use super::{foreign, run};
use crate::support::shell::Shell;

const MODULE: &str = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2";
pub(super) const PASSWORD: &str = "hunter2";
/// Of the password, for user `ci`.
const HTPASSWD: &str = "ci:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    /// Wants a name and password.
    Private,
    /// Likewise, over TLS with a certificate of an authority of its own.
    Encrypted,
}

/// A registry that ends with the test.
pub(super) struct Registry {
    child: Child,
    pub(super) address: String,
    /// Who signed its certificate, in PEM.
    authority: Option<String>,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The registry's program, built once from its Go module.
fn program() -> Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let dir = dir.canonicalize().map_err(|error| error.to_string())?;
        let program = dir.join("registry");
        if !program.is_file() {
            let built = Command::new("go").args(["install", MODULE]).env("GOBIN", &dir).output();
            let built = built.map_err(|error| format!("go is needed to build a registry: {error}"))?;
            if !built.status.success() {
                return Err(format!("go install {MODULE}: {}", String::from_utf8_lossy(&built.stderr)));
            }
        }
        Ok(program)
    };
    PROGRAM.get_or_init(build).clone()
}

impl Registry {
    pub(super) fn start(kind: Kind) -> Result<Self, String> {
        let program = program()?;
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().display();
        let auth = if kind != Kind::Open {
            std::fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("written");
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n")
        } else {
            String::new()
        };
        let (mut tls, mut authority) = (String::new(), None);
        if kind == Kind::Encrypted {
            let identity = Identity::new();
            std::fs::write(dir.path().join("tls.crt"), identity.certificate).expect("written");
            std::fs::write(dir.path().join("tls.key"), identity.key).expect("written");
            authority = Some(identity.authority);
            tls = format!("  tls:\n    certificate: {root}/tls.crt\n    key: {root}/tls.key\n");
        }
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: 127.0.0.1:0\n{tls}{auth}"
        );
        std::fs::write(dir.path().join("config.yml"), config).expect("written");
        let mut child = Command::new(program)
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.split(['"', ',']).next()?.to_owned())
        });
        let address = address.expect("it says where it listens");
        // Whatever else it says must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address, authority, _dir: dir })
    }
}

pub(super) fn skip(reason: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "\nSKIPPED: registry: {reason}");
}

pub(super) fn json(shell: &Shell, arguments: &[&str]) -> Value {
    let (status, stdout, stderr) = run(shell, arguments);
    assert_eq!(status, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).expect("one JSON document")
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    let registry = match Registry::start(Kind::Open) {
        Ok(registry) => registry,
        Err(reason) => return skip(&reason),
    };
    let shell = Shell::new();
    let archive = foreign::distroless(&shell.path("app.tar"));
    let made = super::import(&shell, &archive, "app");
    let reference = format!("{}/team/app:1", registry.address);
    let pushed = json(&shell, &["env", "push", "app", &reference, "-o", "json"]);
    // What is there already is not sent again, and is the same.
    assert_eq!(json(&shell, &["env", "push", "app", &reference, "-o", "json"]), pushed);

    let pulled = json(&shell, &["env", "pull", &reference, "--name", "back", "-o", "json"]);
    assert_eq!((&pulled["digest"], &pulled["source_digest"]), (&made["digest"], &pushed["image_digest"]));
    assert_eq!(pulled["reference"], reference.as_str());
    let by_digest =
        format!("{}/team/app@{}", registry.address, pushed["image_digest"].as_str().expect("text"));
    let pulled = json(&shell, &["env", "pull", &by_digest, "--name", "pinned", "-o", "json"]);
    assert_eq!(pulled["digest"], made["digest"]);
    let said = super::output(&shell, &["--env", "pinned", "--entrypoint"]);
    assert!(said.starts_with("argv /app serve\n"), "{said}");

    let (status, _, said) =
        run(&shell, &["env", "pull", &format!("{}/team/none", registry.address), "--name", "x"]);
    assert!(status == 125 && said.contains("/team/none:latest"), "{status}: {said}");
}

#[test]
fn the_policy_says_whether_the_registry_is_asked() {
    let registry = match Registry::start(Kind::Open) {
        Ok(registry) => registry,
        Err(reason) => return skip(&reason),
    };
    let shell = Shell::new();
    let reference = format!("{}/app", registry.address);
    super::import(&shell, &foreign::distroless(&shell.path("app.tar")), "app");
    run(&shell, &["env", "push", "app", &reference]);
    let pull = |policy: &str| {
        json(&shell, &["env", "pull", &reference, "--name", "x", "--policy", policy, "-o", "json"])
    };
    let first = pull("missing");
    assert_eq!(first["layers"], 2);
    // The tag leads elsewhere now.
    super::import(&shell, &foreign::other(&shell.path("other.tar")), "other");
    run(&shell, &["env", "push", "other", &reference]);
    let kept = pull("missing");
    assert_eq!((&kept["digest"], &kept["layers"]), (&first["digest"], &Value::Null));
    let moved = pull("always");
    assert_ne!(moved["digest"], first["digest"]);
    assert_eq!(moved["layers"], 2, "fetched");
    assert_eq!(pull("always")["layers"], Value::Null, "asked, and the same");
    drop(registry);
    assert_eq!(pull("missing")["digest"], moved["digest"], "nobody is asked");
}

#[test]
fn a_private_registry_wants_a_name_and_password() {
    let registry = match Registry::start(Kind::Private) {
        Ok(registry) => registry,
        Err(reason) => return skip(&reason),
    };
    let shell = Shell::new();
    let reference = format!("{}/app", registry.address);
    super::import(&shell, &foreign::distroless(&shell.path("app.tar")), "app");
    shell.file("good", &format!("{PASSWORD}\n"));
    shell.file("bad", "hunter3");
    let push = ["env", "push", "app", &reference];
    let (status, _, said) = run(&shell, &push);
    assert!(
        status == 126 && said.contains("without credentials") && said.contains("--password-file"),
        "{said}"
    );
    let with =
        |file: &str| run(&shell, &[&push[..], &["--username", "ci", "--password-file", file]].concat());
    let (status, _, said) = with("bad");
    assert!(status == 126 && said.contains("these credentials") && !said.contains("hunter3"), "{said}");
    let (status, _, said) = with("good");
    assert_eq!(status, 0, "{said}");
    // What `docker login` wrote.
    let auth = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("ci:{PASSWORD}"));
    let config = serde_json::json!({ "auths": { registry.address.clone(): { "auth": auth } } });
    shell.file("config.json", &config.to_string());
    let mut pull = shell.command(&["env", "pull", &reference, "--name", "back"]);
    pull.env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shell.path("images")).env("DOCKER_CONFIG", shell.dir.path());
    let pulled = pull.output().expect("it runs");
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
}

#[test]
fn an_encrypted_registry_is_believed_by_its_authority_alone() {
    let registry = match Registry::start(Kind::Encrypted) {
        Ok(registry) => registry,
        Err(reason) => return skip(&reason),
    };
    let shell = Shell::new();
    let reference = format!("{}/app", registry.address);
    let made = super::import(&shell, &foreign::distroless(&shell.path("app.tar")), "app");
    shell.file("good", PASSWORD);
    shell.file("ca.pem", registry.authority.as_deref().expect("it has one"));
    shell.file("other.pem", &Identity::new().authority);
    let login = ["--username", "ci", "--password-file", "good", "--ca-file"];
    let with = |what: &[&str], ca: &str| run(&shell, &[what, &login, &[ca]].concat());
    let push = ["env", "push", "app", &reference];
    // Somebody else's certificate: nothing is sent, the password least of all.
    let (status, _, said) = with(&push, "other.pem");
    assert!(status == 125 && said.contains("certificate"), "{status}: {said}");
    let (status, _, said) = with(&push, "ca.pem");
    assert_eq!(status, 0, "{said}");
    let pull = ["env", "pull", &reference, "--name", "back", "-o", "json"];
    let (status, stdout, said) = with(&pull, "ca.pem");
    assert_eq!(status, 0, "{said}");
    let pulled: Value = serde_json::from_str(&stdout).expect("one JSON document");
    assert_eq!(pulled["digest"], made["digest"]);
    let (status, _, said) = run(&shell, &["env", "pull", &reference, "--name", "x", "--ca-file", "ca.pem"]);
    assert!(status == 126 && said.contains("without credentials"), "{status}: {said}");
}
