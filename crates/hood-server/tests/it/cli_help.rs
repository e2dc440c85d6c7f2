//! Black box: what every command says of itself, as committed snapshots.

use std::process::{Command, Stdio};

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fumehood"))
        .args(arguments)
        .arg("--help")
        .stdin(Stdio::null())
        .env_remove("COLUMNS")
        .output()
        .expect("it runs");
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "help goes to stdout");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_command_explains_itself() {
    insta::assert_snapshot!("help", help(&[]));
    for command in [
        "run",
        "batch",
        "serve",
        "api",
        "worker",
        "dispatcher",
        "notifier",
        "list",
        "get",
        "logs",
        "events",
        "cancel",
        "delete",
        "dead",
        "env",
        "doctor",
        "config",
        "pki",
        "migrate",
        "export",
        "import",
        "completions",
        "version",
    ] {
        let text = help(&[command]);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{command} is wider than 100 columns");
        let is_plain = command == "version";
        assert!(is_plain || text.contains("Examples:"), "{command} has no examples");
        insta::assert_snapshot!(format!("help_{command}"), text);
    }
}

#[test]
fn every_command_is_listed_and_snapshotted() {
    let listed: Vec<String> = help(&[])
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A description that is wrapped goes on further to the right.
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let snapshots = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots");
    for command in listed.iter().filter(|command| *command != "help") {
        let name = format!("it__cli_help__help_{command}.snap");
        assert!(snapshots.join(&name).exists(), "`{command}` has no snapshot of its help");
    }
}
