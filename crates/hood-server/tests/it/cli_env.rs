//! Black box: `fumehood env` as somebody types it, with images of its own.

mod declared;

use serde_json::Value;

use crate::support::shell::{Shell, text};

fn run(shell: &Shell, arguments: &[&str]) -> (i32, String, String) {
    let mut command = shell.command(arguments);
    command.env("FUMEHOOD_ENVIRONMENTS_IMAGES_DIR", shell.path("images"));
    let output = command.output().expect("it runs");
    (output.status.code().expect("an exit status"), text(&output.stdout), text(&output.stderr))
}

fn json(shell: &Shell, arguments: &[&str]) -> Value {
    let (status, stdout, stderr) = run(shell, arguments);
    assert_eq!(status, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).expect("one JSON document")
}

#[test]
fn an_image_is_built_inspected_checked_and_removed() {
    let shell = Shell::new();
    let before = json(&shell, &["env", "inspect", "minimal", "-o", "json"]);
    assert_eq!((&before["state"], &before["digest"]), (&"not_built".into(), &Value::Null));
    let built = json(&shell, &["env", "build", "minimal", "-o", "json"]);
    assert_eq!((&built[0]["name"], &built[0]["built"]), (&"minimal".into(), &true.into()));
    let after = json(&shell, &["env", "inspect", "minimal", "-o", "json"]);
    assert_eq!((&after["state"], &after["digest"]), (&"ready".into(), &built[0]["digest"]));
    assert_eq!(after["size_bytes"], built[0]["size_bytes"]);
    let again = json(&shell, &["env", "build", "minimal", "-o", "json"]);
    assert_eq!((&again[0]["built"], &again[0]["digest"]), (&false.into(), &built[0]["digest"]));
    let (status, list, _) = run(&shell, &["environments", "list"]);
    assert!(status == 0 && list.contains("minimal (default)") && list.contains("ready"), "{list}");
    let gone = json(&shell, &["env", "rm", "minimal", "-o", "json"]);
    assert_eq!((&gone[0]["removed"], &gone[0]["freed_bytes"]), (&true.into(), &built[0]["size_bytes"]));
    let (_, said, _) = run(&shell, &["env", "rm", "minimal"]);
    assert_eq!(said, "minimal: was not built\n");
}

#[test]
fn gc_removes_what_nobody_has_and_progress_is_told() {
    let shell = Shell::new();
    let (status, said, progress) = run(&shell, &["env", "build", "minimal"]);
    assert!(status == 0 && said.starts_with("minimal blake3:"), "{said}{progress}");
    assert!(progress.contains("minimal: copying, "), "{progress}");
    assert_eq!(json(&shell, &["env", "gc", "-o", "json"])["images"], 0);
    let record = shell.path("images/names/minimal.json");
    std::fs::remove_file(record).expect("it was there");
    let swept = json(&shell, &["env", "gc", "-o", "json"]);
    assert_eq!(swept["images"], 1);
    assert!(swept["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{swept}");
}

#[test]
fn an_unknown_one_is_refused_with_those_that_there_are() {
    let shell = Shell::new();
    for command in ["build", "rm"] {
        let (status, _, said) = run(&shell, &["env", command, "nothing"]);
        assert_eq!(status, 126, "{said}");
        assert!(said.contains("nothing") && said.contains("there are: minimal"), "{said}");
    }
    let (status, _, said) = run(&shell, &["--server", "http://127.0.0.1:1", "env", "build", "minimal"]);
    assert!(status == 125 && said.contains("run this there"), "{said}");
    let mut command = shell.command(&["env", "gc"]);
    let output = command.env("FUMEHOOD_SERVER", "http://127.0.0.1:1").output().expect("it runs");
    let said = text(&output.stderr);
    assert!(said.contains("FUMEHOOD_SERVER, names http://127.0.0.1:1"), "{said}");
}

#[test]
fn a_name_that_no_import_may_have_is_refused_before_there_is_anything_to_read() {
    let shell = Shell::new();
    for (name, why) in [("BAD", "cannot name an environment"), ("data", "is declared already")] {
        for arguments in [
            &["env", "import", "nowhere.tar", "--name", name][..],
            &["env", "pull", "127.0.0.1:1/nothing", "--name", name],
        ] {
            let (status, _, said) = run(&shell, arguments);
            assert!(status == 126 && said.contains(why), "{arguments:?}: {status}: {said}");
            assert!(said.contains("next: choose another --name"), "{said}");
        }
    }
}
