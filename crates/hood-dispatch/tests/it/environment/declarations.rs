//! Black box: what a declaration may say, and what is said of one that says something else.

use hood_core::limits::Limits;
use hood_core::plan::{ExecutorClass, Isolation, SystemCalls};
use hood_dispatch::environment::{
    Base, DECLARATION_BYTES_MAX, DESCRIPTION_BYTES_MAX, Declaration, NAME_BYTES_MAX, builtin,
};

const GOOD: &str = r#"name = "small"
description = "A small one"
base = "host-python"
interpreter = "python3"
allowed_classes = ["cpu", "high-memory"]
packages = []
[default_limits]
wall_ms = 5_000
[maximum_limits]
memory_bytes = 0x10000000
"#;

#[test]
fn minimal_is_declared() {
    let declarations = builtin().expect("ours are right");
    let minimal = &declarations[0];
    assert_eq!((minimal.name.as_str(), minimal.base.as_str()), ("minimal", "host-python"));
    assert_eq!(minimal.allowed_classes, [ExecutorClass::Cpu]);
    assert_eq!(minimal.maximum_limits, Limits::MAXIMUM);
}

#[test]
fn what_is_declared_is_taken_and_what_is_not_is_ours() {
    let declaration = Declaration::parse(GOOD, "environments/small.toml").expect("is right");
    assert_eq!(declaration.base, Base::HostPython);
    assert_eq!(declaration.allowed_classes, [ExecutorClass::Cpu, ExecutorClass::HighMemory]);
    assert_eq!(declaration.default_limits.wall_ms, 5_000);
    assert_eq!(declaration.default_limits.processes, Limits::DEFAULT.processes);
    assert_eq!(declaration.maximum_limits.memory_bytes, 256 << 20);
    assert_eq!(declaration.maximum_limits.processes, Limits::MAXIMUM.processes);
    // Not written down, so it follows the lowered maximum.
    assert_eq!(declaration.default_limits.memory_bytes, 256 << 20);
}

#[test]
fn the_environment_for_attackers_asks_for_gvisor_and_the_least_calls() {
    let declarations = builtin().expect("ours are right");
    let of = |name: &str| declarations.iter().find(|one| one.name == name).expect("declared");
    assert_eq!(
        (of("sandbox").isolation, of("sandbox").system_calls),
        (Isolation::Gvisor, SystemCalls::Least)
    );
    assert_eq!(
        (of("data").isolation, of("data").system_calls),
        (Isolation::Namespace, SystemCalls::Ordinary)
    );
    let odd = GOOD.replace("packages", "system_calls = \"few\"\npackages");
    let error = Declaration::parse(&odd, "environments/small.toml").expect_err("is wrong").to_string();
    assert!(
        error.contains("system_calls: `few` is no list of system calls; known are ordinary, least"),
        "{error}"
    );
}

#[test]
fn each_of_ours_has_a_lock_of_itself_and_says_what_holds_it() {
    for declaration in builtin().expect("ours are right") {
        assert!(declaration.security.is_some(), "{}", declaration.name);
        match (&declaration.lock, declaration.base) {
            (Some(lock), Base::Locked) => {
                assert_eq!(lock.request, declaration.request(), "{}: lock it anew", declaration.name);
                assert_eq!(lock.release, declaration.packages.release);
                let named = |name: &String| lock.debs.iter().any(|deb| deb.name == *name);
                assert!(declaration.packages.debian.iter().all(named), "{}", declaration.name);
                assert!(named(&declaration.interpreter), "{} is known by no package", declaration.name);
            }
            (None, Base::HostPython) => {}
            (lock, base) => panic!("{}: {base:?} with {lock:?}", declaration.name),
        }
    }
}

const LOCKED: &str = r#"name = "mine"
description = "Mine"
base = "locked"
interpreter = "bash"
allowed_classes = ["cpu"]
[packages]
debian_release = "bookworm"
debian = ["bash"]
python_version = "3.11"
python = ["numpy>=2"]
[links]
"usr/bin/x" = "y"
"#;

#[test]
fn packages_are_read_and_their_mistakes_named() {
    let mine = Declaration::parse(LOCKED, "mine.toml").expect("is right");
    assert_eq!((mine.packages.debian, mine.packages.python), (vec!["bash".into()], vec!["numpy>=2".into()]));
    assert_eq!(mine.packages.links.get("usr/bin/x").map(String::as_str), Some("y"));
    for (line, by, key, word) in [
        (r#"debian = ["bash"]"#, "debian = []", "packages.debian", "is empty"),
        (r#"["bash"]"#, r#"["--allow-unauthenticated"]"#, "packages.debian", "no name"),
        (r#"["numpy>=2"]"#, r#"["x @ http://a.example/x.whl"]"#, "packages.python", "no name"),
        (r#""bookworm""#, r#""book/worm""#, "packages.debian_release", "no name of a release"),
        (r#"python_version = "3.11""#, "", "packages.python_version", "is missing"),
        (r#""usr/bin/x""#, r#""../x""#, "links.../x", "beneath the root"),
        ("[packages]", "[package]", "packages", "is missing"),
    ] {
        let error = Declaration::parse(&LOCKED.replace(line, by), "mine.toml").expect_err(by);
        let named = error.problems.iter().any(|found| found.key == key && found.problem.contains(word));
        assert!(named, "{by}: {error}");
    }
}

/// A declaration in which one line was replaced, and the line, key and words of the complaint.
#[test]
fn each_mistake_is_named_with_its_line_and_key() {
    let cases = [
        (r#"name = "small""#, r#"name = "Small""#, 1, "name", "a-z"),
        (r#"name = "small""#, r#"name = "-small""#, 1, "name", "without -"),
        (r#"name = "small""#, r#"name = "../x""#, 1, "name", "a-z"),
        (r#"name = "small""#, r#"name = "other""#, 1, "name", "other.toml"),
        (r#"name = "small""#, "name = 7", 1, "name", "must be a string, and is an integer"),
        (r#"name = "small""#, "", 1, "name", "is missing"),
        (r#""A small one""#, r#""""#, 2, "description", "one line"),
        (r#""A small one""#, r#""two\nlines""#, 2, "description", "one line"),
        ("host-python", "alpine", 3, "base", "`alpine` is no base"),
        (r#""python3""#, r#""bin/python3""#, 4, "interpreter", "absolute path"),
        (r#""python3""#, r#""""#, 4, "interpreter", "absolute path"),
        (r#"["cpu", "high-memory"]"#, r#"["cpu", "tpu"]"#, 5, "allowed_classes", "known are cpu"),
        (r#"["cpu", "high-memory"]"#, r#"["cpu", "cpu"]"#, 5, "allowed_classes", "twice"),
        (r#"["cpu", "high-memory"]"#, "[]", 5, "allowed_classes", "no evaluation could run"),
        (
            r#"["cpu", "high-memory"]"#,
            r#""cpu""#,
            5,
            "allowed_classes",
            "must be an array of strings, and is a string",
        ),
        ("packages = []", r#"packages = [{ name = "numpy" }]"#, 6, "packages", "host-python takes none"),
        ("packages = []", r#"packages = "numpy""#, 6, "packages", "host-python takes none"),
        ("packages = []", "network = true", 6, "network", "unknown key"),
        ("wall_ms = 5_000", "wall = 5_000", 8, "default_limits.wall", "unknown key"),
        ("wall_ms = 5_000", "wall_ms = -1", 8, "default_limits.wall_ms", "must be an integer from 0 on"),
        ("wall_ms = 5_000", r#"wall_ms = "5s""#, 8, "default_limits.wall_ms", "must be an integer from 0 on"),
        ("wall_ms = 5_000", "wall_ms = 1", 8, "default_limits.wall_ms", "below the least"),
        (
            "wall_ms = 5_000",
            "memory_bytes = 268435457",
            8,
            "default_limits.memory_bytes",
            "above the maximum",
        ),
        ("wall_ms = 5_000", "disk_bytes = 268435457", 8, "default_limits.disk_bytes", "above memory_bytes"),
        (
            "memory_bytes = 0x10000000",
            "memory_bytes = 1",
            10,
            "maximum_limits.memory_bytes",
            "below the least",
        ),
        ("base = ", "base ", 3, "", "="),
        ("packages = []", r#"base = "host-python""#, 6, "", "duplicate"),
    ];
    for (good, bad, line, key, words) in cases {
        let text = GOOD.replacen(good, bad, 1);
        let error = Declaration::parse(&text, "environments/small.toml").expect_err(bad);
        let known = error
            .problems
            .iter()
            .any(|problem| problem.line == line && problem.key == key && problem.problem.contains(words));
        assert!(known, "{bad}: {error}");
        assert!(error.to_string().starts_with("environments/small.toml:"), "{error}");
    }
}

#[test]
fn all_mistakes_are_named_at_once() {
    let text = GOOD.replace("host-python", "alpine").replace("5_000", "1").replace("cpu", "tpu");
    let error = Declaration::parse(&text, "small.toml").expect_err("three mistakes");
    let keys: Vec<&str> = error.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["base", "allowed_classes", "default_limits.wall_ms"]);
    assert_eq!(error.to_string().lines().count(), 3);
}

#[test]
fn lengths_are_taken_at_their_edge_and_refused_past_it() {
    let named = |name: &str| {
        Declaration::parse(&GOOD.replacen("small", name, 1), &format!("environments/{name}.toml"))
    };
    assert!(named(&"n".repeat(NAME_BYTES_MAX)).is_ok());
    assert!(named(&"n".repeat(NAME_BYTES_MAX + 1)).is_err());
    let described =
        |bytes: usize| Declaration::parse(&GOOD.replace("A small one", &"d".repeat(bytes)), "small.toml");
    assert!(described(DESCRIPTION_BYTES_MAX).is_ok());
    assert!(described(DESCRIPTION_BYTES_MAX + 1).is_err());
    let padded = |bytes: usize| {
        let comment = "#".repeat(bytes - GOOD.len());
        Declaration::parse(&format!("{GOOD}{comment}"), "small.toml")
    };
    assert!(padded(DECLARATION_BYTES_MAX).is_ok());
    assert!(padded(DECLARATION_BYTES_MAX + 1).is_err());
}
