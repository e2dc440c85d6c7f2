//! Black box: the commands that move a store, given what they cannot use.

use crate::support::shell::{Serving, Shell, text};

fn said(shell: &Shell, arguments: &[&str]) -> (i32, String) {
    let (status, output) = shell.run(arguments);
    (status, text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn an_export_never_writes_over_a_file() {
    let shell = Shell::new();
    shell.file("there", "mine");
    let (status, said) = said(&shell, &["export", "there"]);
    assert!(status == 125 && said.contains("there is a file of that name"), "{status}: {said}");
    assert!(said.contains("next: name another, or move that one away"), "{said}");
    assert_eq!(std::fs::read(shell.path("there")).expect("reads"), b"mine");
}

#[test]
fn what_is_no_export_is_called_so() {
    let shell = Shell::new();
    for (name, content) in [("text", "no such thing\n"), ("empty", "")] {
        shell.file(name, content);
        let (status, said) = said(&shell, &["import", name]);
        assert!(status == 125 && said.contains("this is no export of fumehood: "), "{name}: {said}");
        assert!(said.contains("next: name a file that `fumehood export FILE` wrote"), "{name}: {said}");
    }
}

/// The first start over what was imported finds no key in its directory, and makes one.
#[test]
fn a_key_that_was_moved_goes_on_working_beside_the_one_that_the_first_start_makes() {
    let [from, to] = [(); 2].map(|()| Shell::new());
    drop(Serving::start(&from, &[]));
    let (file, key) = (to.path("moved"), from.path("data/token"));
    let (file, key) = (file.to_str().expect("text"), key.to_str().expect("text"));
    for (shell, arguments) in [(&from, ["export", file]), (&to, ["import", file])] {
        let (status, said) = said(shell, &arguments);
        assert_eq!(status, 0, "{arguments:?}: {said}");
    }
    let serving = Serving::start(&to, &[]);
    let own = to.path("data/token");
    for key in [key, own.to_str().expect("text")] {
        let (status, said) = said(&to, &["list", "--server", &serving.address, "--token-file", key]);
        assert_eq!(status, 0, "{key}: {said}");
    }
}

#[test]
fn what_does_not_answer_is_said_with_what_to_look_at() {
    let url = "store.url=postgres://owner@127.0.0.1:1/fumehood";
    for (arguments, next) in [
        (&["migrate", "--set", url][..], "next: see with `psql` that the server answers there"),
        (&["env", "pull", "127.0.0.1:1/app", "--name", "app"], "next: see that it answers from here"),
    ] {
        let (status, said) = said(&Shell::new(), arguments);
        assert!(status == 125 && said.contains(next), "{arguments:?}: {status}: {said}");
    }
}

#[test]
fn migrating_without_an_address_says_where_it_is_given() {
    let (status, said) = said(&Shell::new(), &["migrate"]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("store.url is not set") && said.contains("FUMEHOOD_STORE_URL"), "{said}");
}
