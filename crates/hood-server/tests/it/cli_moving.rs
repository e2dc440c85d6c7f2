//! Black box: the commands that move a store, given what they cannot use.

use crate::support::shell::{Shell, text};

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

#[test]
fn migrating_without_an_address_says_where_it_is_given() {
    let (status, said) = said(&Shell::new(), &["migrate"]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("store.url is not set") && said.contains("FUMEHOOD_STORE_URL"), "{said}");
}
