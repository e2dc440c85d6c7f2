//! Black box: images from elsewhere, imported with the command line and run unmodified.

mod bearer;
mod encrypted;
pub(crate) mod foreign;
mod hostile;
mod registry;

use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::support::shell::{Shell, text};

fn run(shell: &Shell, arguments: &[&str]) -> (i32, String, String) {
    let mut command = shell.command(arguments);
    command.env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shell.path("images"));
    let output = command.output().expect("it runs");
    (output.status.code().expect("an exit status"), text(&output.stdout), text(&output.stderr))
}

fn import(shell: &Shell, archive: &Path, name: &str) -> Value {
    let archive = archive.to_str().expect("text");
    let (status, stdout, stderr) = run(shell, &["env", "import", archive, "--name", name, "-o", "json"]);
    assert_eq!(status, 0, "{stderr}");
    serde_json::from_str(&stdout).expect("one JSON document")
}

/// Runs quietly and gives what the program wrote.
fn output(shell: &Shell, arguments: &[&str]) -> String {
    let (status, stdout, stderr) = run(shell, &[&["run", "--quiet"], arguments].concat());
    assert_eq!(status, 0, "{arguments:?}: {stdout}{stderr}");
    stdout
}

#[test]
fn an_image_of_one_static_program_runs_as_it_says() {
    let shell = Shell::new();
    let archive = foreign::distroless(&shell.path("app.tar"));
    let made = import(&shell, &archive, "app");
    assert_eq!((&made["has_python"], &made["layers"]), (&false.into(), &1.into()));
    assert!(made["source_digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{made}");

    let said = output(&shell, &["--env", "app", "--entrypoint"]);
    let expected = "argv /app serve\ncwd /srv/data\nuid 1000\nFROM_IMAGE=1\nHOME=/eval\nPATH=/:/bin\n";
    assert_eq!(said, expected);
    let said = output(&shell, &["--env", "app", "-e", "FROM_IMAGE=request", "--entrypoint", "--", "a", "b"]);
    assert!(
        said.starts_with("argv /app a b\ncwd /srv/data\n") && said.contains("FROM_IMAGE=request"),
        "{said}"
    );
    // A command of one's own is found on the image's PATH, and runs where the files are.
    let said = output(&shell, &["--env", "app", "--exec", "--", "app", "x"]);
    assert!(said.starts_with("argv app x\ncwd /eval\n"), "{said}");

    shell.file("code.py", "print(1)");
    let (status, _, said) = run(&shell, &["run", "--env", "app", "code.py"]);
    assert!(status == 126 && said.contains("python3") && said.contains("`command`"), "{status}: {said}");
    let (status, listed, _) = run(&shell, &["env", "inspect", "app", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("one JSON document");
    assert_eq!((status, &listed["image"]["user"]), (0, &"nonroot".into()), "{listed}");
    assert_eq!((&listed["state"], &listed["base"]), (&"ready".into(), &"imported".into()));
    assert!(listed["interpreter"].is_null(), "it names none that we know of: {listed}");
    let (_, shown, _) = run(&shell, &["env", "inspect", "app"]);
    let shown: Vec<String> =
        shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        r#"entrypoint ["/app"]"#,
        r#"command ["serve"]"#,
        "env FROM_IMAGE=1",
        "workdir /srv/data",
        "user nonroot (not used: programs run as 1000)",
    ] {
        assert!(shown.iter().any(|shown| shown == line), "{line}: {shown:#?}");
    }
}

#[test]
fn an_image_on_musl_runs_with_its_own_shell() {
    let shell = Shell::new();
    let archive = match foreign::alpine(&shell.path("alpine.tar")) {
        Ok(archive) => archive,
        Err(reason) => return foreign::skip(&reason),
    };
    import(&shell, &archive, "alpine");
    let script =
        "id -u; cat /etc/alpine-release; dynamic; ls /bin/sh; touch /x 2>/dev/null || echo read-only";
    let said = output(&shell, &["--env", "alpine", "--exec", "--", "sh", "-c", script]);
    assert_eq!(said, "1000\n3.0-like\nmusl, loaded\n/bin/sh\nread-only\n");
    // A file that only root could read in its image is everybody's to read here; a link stays one.
    let said =
        output(&shell, &["--env", "alpine", "--exec", "--", "sh", "-c", "cat /etc/shadow; readlink /bin/sh"]);
    assert_eq!(said, "root:*\nbusybox\n");
}

#[test]
fn a_debian_image_runs_python_and_everything_else() {
    let shell = Shell::new();
    let archive = match foreign::debian(&shell.path("debian.tar")) {
        Ok(archive) => archive,
        Err(reason) => return foreign::skip(&reason),
    };
    let made = import(&shell, &archive, "debian");
    assert_eq!(made["has_python"], true);
    assert!(made["left_out"]["set_id"].as_u64().is_some_and(|count| count > 0), "{made}");
    shell.file(
        "code.py",
        "import os, ssl, sqlite3, subprocess\n\
         print(open('/etc/os-release').readline().strip(), os.getuid(), os.getcwd())\n\
         print(subprocess.check_output(['bash', '-c', 'echo $((6*7))'], text=True).strip())\n\
         print([n for n in os.listdir('/dev') if n.startswith('sd') or n == 'console'])\n\
         print(os.stat('/usr/bin/passwd').st_mode & 0o7777 == 0o755)\n",
    );
    let said = output(&shell, &["--env", "debian", "code.py"]);
    assert_eq!(said, "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\" 1000 /eval\n42\n[]\nTrue\n");
    let said = output(&shell, &["--env", "debian", "--exec", "--", "perl", "-e", "print 6*7"]);
    assert_eq!(said, "42");
}

#[test]
fn what_is_no_sound_image_leaves_nothing_behind() {
    let shell = Shell::new();
    let sound = foreign::distroless(&shell.path("sound.tar"));
    let bytes = std::fs::read(&sound).expect("there");
    let cut = shell.path("cut.tar");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("written");
    let text = shell.path("text.tar");
    std::fs::write(&text, "no archive").expect("written");
    for (archive, word) in
        [(&cut, "cut short"), (&text, "this is no image"), (&shell.path("none.tar"), "No such file")]
    {
        let path = archive.to_str().expect("text");
        let (status, _, said) = run(&shell, &["env", "import", path, "--name", "x"]);
        assert!(status == 125 && said.contains(word), "{status}: {said}");
    }
    for (name, word) in [("minimal", "minimal"), ("Not A Name", "a-z")] {
        let path = sound.to_str().expect("text");
        let (status, _, said) = run(&shell, &["env", "import", path, "--name", name]);
        assert!(status != 0 && said.contains(word), "{status}: {said}");
    }
    let left = |dir: &str| {
        let entries = std::fs::read_dir(shell.path("images").join(dir)).expect("there");
        entries.map(|entry| entry.expect("read").file_name()).collect::<Vec<_>>()
    };
    for dir in ["staging", "images", "imported", "building"] {
        assert!(left(dir).is_empty(), "{dir}: {:?}", left(dir));
    }
    let (_, listed, _) = run(&shell, &["env", "list"]);
    assert!(!listed.contains("imported"), "{listed}");
}

#[test]
fn a_layout_may_be_a_directory_or_standard_input() {
    let shell = Shell::new();
    let archive = foreign::distroless_layout(&shell.path("app.tar"));
    let dir = shell.path("layout");
    std::fs::create_dir(&dir).expect("made");
    foreign::call(std::process::Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&dir));
    let of_dir = import(&shell, &dir, "dir");
    let of_file = import(&shell, &archive, "file");
    assert_eq!(of_dir["digest"], of_file["digest"]);
    let mut command = shell.command(&["env", "import", "-", "--name", "pipe", "-o", "json"]);
    command.env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shell.path("images"));
    command.stdin(std::fs::File::open(&archive).expect("there"));
    let piped = command.output().expect("it runs");
    let piped: Value = serde_json::from_slice(&piped.stdout).expect("one JSON document");
    assert_eq!((&piped["digest"], &piped["source_digest"]), (&of_file["digest"], &of_file["source_digest"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_runs_has_what_is_imported_beside_it() {
    let shell = Shell::new();
    let images = shell.path("images");
    let server = Server::with(|config| config.environments.images_dir.clone_from(&images)).await;
    let archive = foreign::distroless(&shell.path("app.tar"));
    let made = tokio::task::block_in_place(|| import(&shell, &archive, "app"));
    // The server looks on a timer of its own.
    let environment = loop {
        let (status, found) = server.request(reqwest::Method::GET, "/v1/environments/app", None).await;
        if status == 200 {
            break found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(environment["digest"], made["digest"]);
    assert_eq!(environment["image"]["entrypoint"], json!(["/app"]));
    let ended = server.run(&json!({ "environment": "app", "args": ["x"] })).await;
    assert_eq!((&ended["verdict"], &ended["exit_code"]), (&json!("succeeded"), &json!(0)), "{ended:#}");
    let (status, refused) = server
        .request(
            reqwest::Method::POST,
            "/v1/evaluations",
            Some(&json!({ "environment": "app", "code": "1" })),
        )
        .await;
    assert_eq!((status, &refused["errors"][0]["path"]), (422, &json!("code")), "{refused}");
    server.stop().await;
}

#[test]
fn an_environment_goes_out_as_an_image_and_comes_back_the_same() {
    let shell = Shell::new();
    let archive = foreign::distroless(&shell.path("app.tar"));
    let made = import(&shell, &archive, "app");
    let write = |name: &str, to: &str| -> Value {
        let (status, stdout, stderr) = run(&shell, &["env", "export", name, "--oci", to, "-o", "json"]);
        assert_eq!(status, 0, "{stderr}");
        serde_json::from_str(&stdout).expect("one JSON document")
    };
    let first = write("app", "first.tar");
    write("app", "second.tar");
    let bytes = |name: &str| std::fs::read(shell.path(name)).expect("written");
    assert!(bytes("first.tar") == bytes("second.tar"), "the same environment, and other bytes");
    assert_eq!(first["digest"], made["digest"]);

    let back = import(&shell, &shell.path("first.tar"), "back");
    assert_eq!(back["digest"], made["digest"], "the tree alone, without the agent");
    assert_eq!(back["source_digest"], first["image_digest"]);
    let said = output(&shell, &["--env", "back", "--entrypoint"]);
    assert!(said.starts_with("argv /app serve\ncwd /srv/data\nuid 1000\nFROM_IMAGE=1\n"), "{said}");

    let bill: Value = serde_json::from_slice(&bytes("first.tar.cdx.json")).expect("JSON");
    assert_eq!(
        (&bill["bomFormat"], &bill["components"][0]["name"]),
        (&"CycloneDX".into(), &"hood-agent".into())
    );
    assert_eq!(bill["metadata"]["component"]["version"], first["image_digest"]);
    let config = tar_config(&shell.path("first.tar"));
    assert_eq!(config["config"]["User"], "1000:1000");
    assert_eq!(config["config"]["Labels"]["dev.fumehood.tree.digest"], made["digest"]);

    let (status, _, said) = run(&shell, &["env", "export", "minimal", "--oci", "minimal.tar"]);
    assert!(status == 126 && said.contains("this host's Python"), "{status}: {said}");
    assert!(!shell.path("minimal.tar").exists());
}

/// The configuration in a layout: the one document of its kind.
fn tar_config(archive: &Path) -> Value {
    let dir = tempfile::tempdir().expect("a directory");
    foreign::call(std::process::Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir.path()));
    let blobs = std::fs::read_dir(dir.path().join("blobs/sha256")).expect("there");
    let texts = blobs.filter_map(|blob| std::fs::read(blob.expect("read").path()).ok());
    let mut documents = texts.filter_map(|text| serde_json::from_slice::<Value>(&text).ok());
    documents.find(|document| document["rootfs"].is_object()).expect("a configuration")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_holds_in_a_foreign_image_too() {
    let shell = Shell::new();
    let archive = match tokio::task::block_in_place(|| foreign::debian(&shell.path("debian.tar"))) {
        Ok(archive) => archive,
        Err(reason) => return foreign::skip(&reason),
    };
    tokio::task::block_in_place(|| import(&shell, &archive, "debian"));
    let images = shell.path("images");
    let server = Server::with(|config| config.environments.images_dir.clone_from(&images)).await;
    let cases = [
        ("raise SystemExit(7)", json!({}), "failed", json!({ "exit_code": 7 })),
        ("import os\nos.kill(os.getpid(), 11)", json!({}), "failed", json!({ "signal": 11 })),
        ("import time\ntime.sleep(60)", json!({ "wall_ms": 500 }), "timed_out", json!({})),
        ("while True: pass", json!({ "cpu_ms": 300 }), "timed_out", json!({})),
        (
            "b = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): b[i] = 1",
            json!({ "memory_bytes": 67_108_864 }),
            "out_of_memory",
            json!({}),
        ),
        ("print(1)", json!({}), "succeeded", json!({ "exit_code": 0 })),
    ];
    for (code, limits, verdict, wanted) in cases {
        let submission = json!({ "environment": "debian", "code": code, "limits": limits });
        let ended = server.run(&submission).await;
        assert_eq!(ended["verdict"], verdict, "{code}: {ended:#}");
        for (name, value) in wanted.as_object().expect("an object") {
            assert_eq!(&ended[name], value, "{code}: {ended:#}");
        }
    }
    let flood = json!({
        "environment": "debian", "code": "import sys\nwhile True: sys.stdout.write('x' * 65536)",
        "limits": { "output_bytes": 100_000 }, "on_output_limit": "fail",
    });
    assert_eq!(server.run(&flood).await["verdict"], "output_limit");
    let shell_only = json!({ "environment": "debian", "command": ["sh", "-c", "exit 3"] });
    assert_eq!(server.run(&shell_only).await["exit_code"], 3);
    server.stop().await;
}
