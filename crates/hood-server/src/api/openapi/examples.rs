//! Submissions to choose from: one for each environment that comes with the server, which the page of the API
//! offers by name.

use std::collections::BTreeMap;

use hood_wire::api::Submission;
use utoipa::openapi::RefOr;
use utoipa::openapi::example::{Example, ExampleBuilder};

/// Name and description, as its declaration has them, and a program that uses what it is for.
const ENVIRONMENTS: [(&str, &str, &str); 11] = [
    ("minimal", "Python and its standard library, copied from this host", "print(6 * 7)\n"),
    (
        "data",
        "Python with NumPy and pandas, for tables and arrays",
        "import pandas\nprint(pandas.DataFrame({'n': [1, 2, 3]}).describe())\n",
    ),
    (
        "ml",
        "Python with NumPy, pandas, SciPy, scikit-learn and PyTorch for CPUs, each as Debian has it",
        "import sklearn, torch\nprint(torch.arange(3).sum().item(), sklearn.__version__)\n",
    ),
    (
        "shell",
        "A POSIX shell with the usual small programs: coreutils, grep, sed, awk, find, diff, jq, bash",
        "echo hello from bash\n",
    ),
    ("node", "Node.js and its standard library", include_str!("../../../../../examples/hello.js")),
    (
        "c",
        "C: GCC, make and the standard libraries, to build and then run",
        include_str!("../../../../../examples/hello.c"),
    ),
    (
        "cpp",
        "C++: GCC, make and the standard libraries, to build and then run",
        include_str!("../../../../../examples/hello.cpp"),
    ),
    (
        "rust",
        "Rust as Debian has it: rustc and the standard library, to build and then run",
        include_str!("../../../../../examples/hello.rs"),
    ),
    (
        "go",
        "Go as Debian has it: the compiler and the standard library, to build and then run",
        include_str!("../../../../../examples/hello.go"),
    ),
    (
        "sandbox",
        "Python alone, one process of it, for code that is expected to attack; for places where gVisor stands before the host",
        "print(6 * 7)\n",
    ),
    (
        "gpu",
        "Python with PyTorch built for CUDA, for machines that give a GPU to sandboxes",
        "import torch\nprint(torch.cuda.get_device_name())\n",
    ),
];

/// In that order, which is kept by the numbers in their names.
pub(super) fn submissions() -> BTreeMap<String, RefOr<Example>> {
    let example = |(number, (name, description, program)): (usize, (&str, &str, &str))| {
        let submission = Submission {
            code: Some(program.to_owned()),
            environment: Some(name.to_owned()),
            ..Submission::default()
        };
        let example = ExampleBuilder::new()
            .summary(format!("{name}: {description}"))
            .value(serde_json::to_value(submission).ok());
        (format!("{:02}-{name}", number + 1), RefOr::from(example))
    };
    ENVIRONMENTS.into_iter().enumerate().map(example).collect()
}
