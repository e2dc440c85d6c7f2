//! Black box: settings given to a command that speaks to a server which has its own.

use std::process::Output;

use crate::support::shell::{Serving, Shell, text};

const SECRET: &str = "whsec_c2VzYW1lIG9wZW4gc2VzYW1lIG9wZW4gc2VzYW1lISE=";

fn said((status, output): (i32, Output)) -> (i32, String) {
    (status, text(&output.stderr))
}

#[test]
fn a_flag_that_the_server_cannot_hear_is_refused_and_a_variable_is_warned_of() {
    let shell = Shell::new();
    let signed = format!("webhooks.secret={SECRET}");
    let serving = Serving::start(&shell, &["--set", "worker.places=3", "--set", &signed]);

    let (status, other) = said(shell.run(&["list", "--set", "worker.places=5"]));
    assert_eq!(status, 125, "{other}");
    for part in ["worker.places = 5", "--set", "the server has 3", &serving.address, "next:", "--data-dir"] {
        assert!(other.contains(part), "no {part:?} in {other}");
    }
    // Whether it is the server's nobody can tell, and nobody is told what either is.
    let (status, secret) = said(shell.run(&["list", "--set", &signed]));
    assert_eq!(status, 125, "{secret}");
    assert!(secret.contains("webhooks.secret") && !secret.contains(SECRET), "{secret}");

    // The same as the server's, and what is the command's own.
    for heard in ["worker.places=3", "log.filter=warn"] {
        assert_eq!(said(shell.run(&["list", "--set", heard])), (0, String::new()), "{heard}");
    }

    let with = |value: &str| {
        let output = shell.command(&["list"]).env("FUMEHOOD_WORKER_PLACES", value).output().expect("it runs");
        said((output.status.code().expect("a status"), output))
    };
    assert_eq!(with("3"), (0, String::new()));
    let (status, warning) = with("5");
    assert_eq!(status, 0, "{warning}");
    assert_eq!(warning.lines().count(), 1, "{warning}");
    for part in ["without effect", "worker.places = 5", "FUMEHOOD_WORKER_PLACES", "the server has 3"] {
        assert!(warning.contains(part), "no {part:?} in {warning}");
    }

    shell.file("own.toml", "[worker]\nplaces = 7\n");
    let (status, warning) = said(shell.run(&["list", "--config", "own.toml"]));
    assert!(status == 0 && warning.contains("own.toml:2"), "{status} {warning}");
}

#[test]
fn a_server_that_is_named_goes_by_its_own_settings() {
    let shell = Shell::new();
    let serving = Serving::start(&shell, &[]);
    let (status, other) =
        said(shell.run(&["list", "--server", &serving.address, "--set", "sandbox.policy=strict"]));
    assert_eq!(status, 125, "{other}");
    for part in ["--set sandbox.policy", "no effect", "--server", &serving.address, "next:"] {
        assert!(other.contains(part), "no {part:?} in {other}");
    }
    assert_eq!(said(shell.run(&["list", "--server", &serving.address])), (0, String::new()));
}

#[test]
fn a_command_of_its_own_server_hears_its_settings() {
    let shell = Shell::new();
    shell.file("one.py", "print(1)");
    let least = ["--set", "limits.maximum.wall_ms=30000", "--timeout", "40s", "one.py"];
    let (status, refused) = said(shell.run(&[&["run"], &least[..]].concat()));
    assert!(status == 126 && refused.contains("at most 30000"), "{status} {refused}");
}
