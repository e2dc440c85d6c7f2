//! Grey box: Python under the least list of system calls, in places as they ship.

use hood_core::Verdict;
use hood_core::plan::SystemCalls;

use crate::bench::Bench;

const PROGRAM: &str = include_str!("least.py");

/// What a program of its own printed of each use: whether it works.
async fn uses(calls: SystemCalls) -> Vec<(String, bool)> {
    let bench = Bench::with_calls(calls).await;
    let (verdict, heard) = bench.run(bench.order(1, PROGRAM)).await;
    bench.close().await;
    let (out, err) = (String::from_utf8_lossy(&heard.stdout), String::from_utf8_lossy(&heard.stderr));
    assert_eq!(verdict, Verdict::Succeeded, "{out}{err}");
    let line = |line: &str| {
        let (how, what) = line.split_once(": ").unwrap_or_else(|| panic!("odd: {line}"));
        (what.split(' ').next().unwrap_or_default().to_owned(), how == "works")
    };
    let uses: Vec<_> = out.lines().map(line).collect();
    assert!(uses.len() > 20, "{out}{err}");
    uses
}

/// What the least list is for: another process, a socket, and what else reaches further.
const BEYOND: [&str; 9] = [
    "another_process",
    "a_forked_process",
    "a_pool_of_processes",
    "a_socket",
    "a_memory_file",
    "a_link",
    "another_limit",
    "a_file_systems_size",
    "another_niceness",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_least_list_is_enough_for_one_python_process_and_for_nothing_beyond() {
    for (name, works) in uses(SystemCalls::Least).await {
        assert_eq!(works, !BEYOND.contains(&name.as_str()), "{name}");
    }
    // The list is what made the difference.
    for (name, works) in uses(SystemCalls::Ordinary).await {
        assert!(works, "{name}");
    }
}
