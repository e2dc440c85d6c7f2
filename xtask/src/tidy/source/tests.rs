use super::*;

fn rust(path: &str, text: &str) -> Vec<String> {
    let file = File { path: path.to_owned(), text: text.to_owned() };
    check_rust(&file).into_iter().map(|finding| finding.message).collect()
}

fn text(text: &str) -> Vec<String> {
    let file = File { path: "a.md".to_owned(), text: text.to_owned() };
    check_text(&file).into_iter().map(|finding| finding.message).collect()
}

fn one(found: &[String], part: &str) {
    assert!(found.len() == 1 && found[0].contains(part), "{found:?} is not one finding about {part}");
}

#[test]
fn sound_files_have_no_findings() {
    assert_eq!(rust("crates/hood-core/src/a.rs", "//! Says `unsafe` and todo!().\nfn f() {}\n"), [""; 0]);
    assert_eq!(text("fine\n"), [""; 0]);
}

#[test]
fn text_is_clean() {
    one(&text("a \n"), "trailing");
    one(&text("a"), "newline");
    one(&text(concat!("see /ro", "ot/.cargo\n")), "one machine");
    one(&text(concat!("<<<<<<", "< HEAD\n")), "conflict");
}

#[test]
fn sizes_are_bounded_at_the_edge() {
    let main = "//\n".repeat(MAIN_LINES);
    one(&rust("crates/a/src/main.rs", &main), "main.rs");
    assert_eq!(rust("crates/a/src/main.rs", &main[3..]), [""; 0]);
    let long = "//\n".repeat(PRODUCTION_LINES_MAX);
    assert_eq!(rust("crates/a/src/b.rs", &long), [""; 0]);
    one(&rust("crates/a/src/b.rs", &format!("{long}//\n")), "601 lines");
    let tested = format!("{long}#[cfg(test)]\nmod tests {{}}\n{long}");
    assert_eq!(rust("crates/a/src/b.rs", &tested), [""; 0]);
    assert_eq!(rust("crates/a/src/b/tests.rs", &long.repeat(2)), [""; 0]);
}

#[test]
fn what_is_unfinished_or_misplaced_is_found() {
    one(&rust("crates/a/src/mod.rs", ""), "mod.rs");
    one(&rust("bench/src/a.rs", "fn f() { todo!() }\n"), "todo!");
    one(&rust("crates/a/src/a.rs", "fn f() { g().unwrap(); }\n"), "unwrap");
    assert_eq!(rust("crates/a/src/a.rs", "#[cfg(test)]\nmod tests { fn f() { g().unwrap() } }\n"), [""; 0]);
    one(&rust("crates/hood-core/src/a.rs", "use std::fs;\n"), "pure");
    one(&rust("crates/hood-server/src/api/a.rs", "use hood_dispatch::Dispatch;\n"), "dispatcher");
    assert_eq!(rust("crates/hood-server/src/worker.rs", "use hood_dispatch::Dispatch;\n"), [""; 0]);
}

#[test]
fn unsafe_has_one_home_and_two_reasons() {
    let sound = "// SAFETY: a.\n// JUSTIFICATION: b.\nlet x =\n    unsafe { f() };\n";
    assert_eq!(rust("crates/hood-sandbox/src/sys/a.rs", sound), [""; 0]);
    one(&rust("crates/hood-sandbox/src/host.rs", sound), "alone");
    one(&rust("crates/hood-sandbox/src/sys.rs", "// SAFETY: a.\nunsafe { f() };\n"), "JUSTIFICATION");
    let far = format!("// SAFETY: a. JUSTIFICATION: b.\n{}unsafe {{ f() }};\n", "g();\n".repeat(5));
    assert_eq!(rust("crates/hood-sandbox/src/sys.rs", &far).len(), 2);
}

#[test]
fn tests_name_their_box() {
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
    let silent = file("crates/a/tests/it/b.rs", "//! About b.\n#[test]\nfn f() {}\n");
    let tree = |main: &str| Tree {
        files: vec![
            file("crates/a/tests/it/main.rs", main),
            file("crates/a/tests/it/b.rs", &silent.text),
            file("crates/a/tests/it/support.rs", "//! No tests.\n"),
        ],
        paths: Vec::new(),
    };
    assert_eq!(check_boxes(&tree("//! Black box.\nmod b;\n")), []);
    let found = check_boxes(&tree("//! Tests.\nmod b;\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].path, "crates/a/tests/it/b.rs");
}
