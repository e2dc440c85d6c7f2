//! What the program sees: where its files lie, how it is called, which environment it has. One pure
//! function says it for every place, so that fresh, warm and cluster runs cannot differ.

/// Where files, code and the working directory are.
pub const WORK_DIR: &str = "/eval";

/// The file that `code` becomes.
pub const MAIN_FILE: &str = "main.py";

/// Set for every program before what the request adds.
pub const BASE_ENV: [(&str, &str); 6] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("HOME", WORK_DIR),
    ("TMPDIR", "/tmp"),
    ("LANG", "C.UTF-8"),
    ("PYTHONUNBUFFERED", "1"),
    ("PYTHONDONTWRITEBYTECODE", "1"),
];

/// What an image cannot set: elsewhere nothing can be written.
const OURS_ALONE: [&str; 2] = ["HOME", "TMPDIR"];

/// The longest path of a file, in bytes, and of each of its components.
pub const PATH_BYTES_MAX: usize = 1024;
pub const NAME_BYTES_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Beneath [`WORK_DIR`], with `/` between components.
    pub path: String,
    pub content: Vec<u8>,
    pub executable: bool,
}

/// What the client sent, before it was laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub code: Option<String>,
    pub files: Vec<File>,
    pub command: Option<Vec<String>>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub stdin: Vec<u8>,
}

/// How an environment's image wants its programs to be started. An image of our own leaves all to
/// the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What runs where the request brings neither `code` nor `command`.
    pub entrypoint: Vec<String>,
    /// Its arguments, where the request has none.
    pub arguments: Vec<String>,
    /// Beneath what the request adds.
    pub env: Vec<(String, String)>,
    /// Where the entrypoint runs.
    pub workdir: Option<String>,
    /// Whether `code` alone can run.
    pub has_python: bool,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            entrypoint: Vec::new(),
            arguments: Vec::new(),
            env: Vec::new(),
            workdir: None,
            has_python: true,
        }
    }
}

impl Start {
    fn is_empty(&self) -> bool {
        self.entrypoint.is_empty() && self.arguments.is_empty()
    }
}

/// What a place needs to start it. A place adds nothing and leaves nothing out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// In the order in which they are written.
    pub files: Vec<File>,
    pub stdin: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("nothing to run: give `code`, or `command` with the `files` it needs")]
    Nothing,
    #[error("`files` need a `command` that says what to run, or `code`")]
    FilesWithoutCommand,
    #[error(
        "`code` needs python3, which this environment's image does not have: say with `command` what runs"
    )]
    NoPython,
    #[error("`command` is empty: its first element names the program")]
    EmptyCommand,
    #[error("{}: {problem}", field.as_str())]
    Field { field: Field, problem: String },
}

/// Where in the source a problem lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Path(usize),
    Command(usize),
    Arg(usize),
    Env(String),
}

impl Field {
    /// The path of the field in the request, as errors name it.
    pub fn as_str(&self) -> String {
        match self {
            Self::Path(i) => format!("files[{i}].path"),
            Self::Command(i) => format!("command[{i}]"),
            Self::Arg(i) => format!("args[{i}]"),
            Self::Env(name) => format!("env.{name}"),
        }
    }
}

impl Source {
    /// Lays the source out, or says everything that is wrong with it.
    pub fn lay_out(self, start: &Start) -> Result<Program, Vec<SourceError>> {
        let errors = self.problems(start);
        if !errors.is_empty() {
            return Err(errors);
        }
        let args = self.args;
        let (argv, cwd) = match (self.command, &self.code) {
            (Some(command), _) => (command.into_iter().chain(args).collect(), WORK_DIR),
            (None, Some(_)) => {
                (["python3", MAIN_FILE].map(str::to_owned).into_iter().chain(args).collect(), WORK_DIR)
            }
            (None, None) => {
                let args = if args.is_empty() { start.arguments.clone() } else { args };
                let argv = start.entrypoint.iter().cloned().chain(args).collect();
                (argv, start.workdir.as_deref().unwrap_or(WORK_DIR))
            }
        };
        let mut env: Vec<(String, String)> =
            BASE_ENV.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let of_image = start.env.iter().filter(|(name, _)| !OURS_ALONE.contains(&name.as_str())).cloned();
        for (name, value) in of_image.chain(self.env) {
            match env.iter_mut().find(|(known, _)| *known == name) {
                Some(known) => known.1 = value,
                None => env.push((name, value)),
            }
        }
        let mut files = self.files;
        if let Some(code) = self.code {
            // Written last: `code` is what runs, whatever a file of the same name holds.
            files.retain(|file| file.path != MAIN_FILE);
            files.push(File { path: MAIN_FILE.to_owned(), content: code.into_bytes(), executable: false });
        }
        Ok(Program { argv, env, cwd: cwd.to_owned(), files, stdin: self.stdin })
    }

    /// Every file that will be there.
    fn paths(&self) -> impl Iterator<Item = &str> {
        let code = self.code.as_ref().map(|_| MAIN_FILE);
        self.files.iter().map(|file| file.path.as_str()).chain(code)
    }

    fn problems(&self, start: &Start) -> Vec<SourceError> {
        let mut errors = Vec::new();
        match (&self.code, &self.command) {
            (Some(_), None) if !start.has_python => errors.push(SourceError::NoPython),
            (None, None) if !start.is_empty() => {}
            (None, None) if self.files.is_empty() => errors.push(SourceError::Nothing),
            (None, None) => errors.push(SourceError::FilesWithoutCommand),
            (_, Some(command)) if command.first().is_none_or(String::is_empty) => {
                errors.push(SourceError::EmptyCommand);
            }
            _ => {}
        }
        let mut wrong = |field, problem: &str| {
            errors.push(SourceError::Field { field, problem: problem.to_owned() });
        };
        for (i, file) in self.files.iter().enumerate() {
            if let Some(problem) = path_problem(&file.path) {
                wrong(Field::Path(i), problem);
            } else if self.files[..i].iter().any(|other| other.path == file.path) {
                wrong(Field::Path(i), "given twice");
            } else if self.paths().any(|other| lies_beneath(&file.path, other)) {
                wrong(Field::Path(i), "lies beneath another file, which is no directory");
            }
        }
        for (i, arg) in self.command.iter().flatten().enumerate() {
            if arg.contains('\0') {
                wrong(Field::Command(i), "holds a NUL byte");
            }
        }
        for (i, arg) in self.args.iter().enumerate() {
            if arg.contains('\0') {
                wrong(Field::Arg(i), "holds a NUL byte");
            }
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                wrong(Field::Env(name.clone()), "a name is not empty and holds no `=` and no NUL byte");
            } else if value.contains('\0') {
                wrong(Field::Env(name.clone()), "holds a NUL byte");
            }
        }
        errors
    }
}

fn lies_beneath(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

fn path_problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("is empty")
    } else if path.len() > PATH_BYTES_MAX {
        Some("is longer than 1024 bytes")
    } else if path.starts_with('/') {
        Some("is absolute: paths lie beneath /eval")
    } else if path.contains('\0') {
        Some("holds a NUL byte")
    } else if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        Some("has an empty, `.` or `..` component")
    } else if path.split('/').any(|name| name.len() > NAME_BYTES_MAX) {
        Some("has a component longer than 255 bytes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> File {
        File { path: path.to_owned(), content: Vec::new(), executable: false }
    }

    #[test]
    fn code_becomes_main_py_and_wins_over_a_file_of_that_name() {
        let source = Source {
            code: Some("print(1)".into()),
            files: vec![file("main.py"), file("data/a.csv")],
            args: vec!["x".into()],
            ..Source::default()
        };
        let program = source.lay_out(&Start::default()).expect("sound");
        assert_eq!(program.argv, ["python3", "main.py", "x"]);
        assert_eq!(
            program.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
            ["data/a.csv", "main.py"]
        );
        assert_eq!(program.files[1].content, b"print(1)");
    }

    #[test]
    fn with_a_command_code_only_lies_there() {
        let source = Source {
            code: Some("x".into()),
            command: Some(vec!["cat".into(), "main.py".into()]),
            ..Source::default()
        };
        assert_eq!(source.lay_out(&Start::default()).expect("sound").argv, ["cat", "main.py"]);
    }

    #[test]
    fn the_environment_is_the_base_and_what_is_added() {
        let env = vec![("LANG".to_owned(), "de_DE".to_owned()), ("A".to_owned(), String::new())];
        let program = Source { code: Some(String::new()), env, ..Source::default() }
            .lay_out(&Start::default())
            .expect("sound");
        assert_eq!(program.env.len(), BASE_ENV.len() + 1);
        assert!(program.env.contains(&("LANG".into(), "de_DE".into())));
        assert!(program.env.contains(&("HOME".into(), "/eval".into())));
    }

    fn image() -> Start {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Start {
            entrypoint: vec!["/bin/app".into()],
            arguments: vec!["--help".into()],
            env: vec![
                pair("PATH", "/opt/bin"),
                pair("HOME", "/root"),
                pair("A", "image"),
                pair("B", "image"),
            ],
            workdir: Some("/srv".into()),
            has_python: false,
        }
    }

    #[test]
    fn an_images_entrypoint_runs_where_nothing_else_is_given() {
        let program = |args: &[&str]| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            Source { args, files: vec![file("data")], ..Source::default() }.lay_out(&image()).expect("sound")
        };
        assert_eq!(program(&[]).argv, ["/bin/app", "--help"]);
        assert_eq!(program(&["x"]).argv, ["/bin/app", "x"]);
        assert_eq!(program(&[]).cwd, "/srv");
        let command = Source { command: Some(vec!["ls".into()]), ..Source::default() };
        let program = command.lay_out(&image()).expect("sound");
        assert_eq!((program.argv.as_slice(), program.cwd.as_str()), (&["ls".to_owned()][..], WORK_DIR));
    }

    #[test]
    fn an_images_variables_lie_between_ours_and_the_requests() {
        let env = vec![("A".to_owned(), "request".to_owned())];
        let program = Source { env, ..Source::default() }.lay_out(&image()).expect("sound");
        let value = |name: &str| program.env.iter().find(|(known, _)| known == name).map(|(_, v)| v.as_str());
        assert_eq!(value("A"), Some("request"));
        assert_eq!(value("B"), Some("image"));
        assert_eq!(value("PATH"), Some("/opt/bin"));
        assert_eq!(value("HOME"), Some("/eval"));
        assert_eq!(value("LANG"), Some("C.UTF-8"));
    }

    #[test]
    fn code_needs_python_in_the_image() {
        let source = Source { code: Some(String::new()), ..Source::default() };
        assert_eq!(source.clone().lay_out(&image()), Err(vec![SourceError::NoPython]));
        let program = Source { command: Some(vec!["cat".into()]), ..source }.lay_out(&image());
        assert_eq!(program.expect("sound").files.len(), 1);
    }

    #[test]
    fn every_problem_is_named_with_its_field() {
        let paths = ["", "/etc/passwd", "../up", "a//b", "a/./b", "nul\0", "ok", "ok"];
        let source = Source {
            files: paths.map(file).to_vec(),
            command: Some(vec!["a\0".into()]),
            args: vec!["b\0".into()],
            env: vec![("A=B".into(), String::new()), ("C".into(), "\0".into())],
            ..Source::default()
        };
        let errors = source.lay_out(&Start::default()).expect_err("all wrong");
        assert_eq!(errors.len(), 11, "{errors:?}");
        assert_eq!(errors[0].to_string(), "files[0].path: is empty");
    }

    #[test]
    fn path_lengths_are_refused_just_past_the_edge() {
        let name = "n".repeat(NAME_BYTES_MAX);
        assert_eq!(path_problem(&name), None);
        assert!(path_problem(&format!("{name}n")).is_some());
        let longest = "n/".repeat(PATH_BYTES_MAX / 2 - 1) + "nn";
        assert_eq!((longest.len(), path_problem(&longest)), (PATH_BYTES_MAX, None));
        assert!(path_problem(&(longest + "x")).is_some());
    }

    #[test]
    fn a_file_is_no_directory() {
        let source = |paths: &[&str]| Source {
            code: Some(String::new()),
            files: paths.iter().map(|path| file(path)).collect(),
            ..Source::default()
        };
        for wrong in [&["a", "a/b"][..], &["a/b/c", "a/b"], &["main.py/x"]] {
            assert_eq!(source(wrong).lay_out(&Start::default()).expect_err("conflict").len(), 1, "{wrong:?}");
        }
        assert!(source(&["a/b", "a/c", "ab", "a.py"]).lay_out(&Start::default()).is_ok());
    }

    #[test]
    fn nothing_to_run_is_said() {
        assert_eq!(Source::default().lay_out(&Start::default()), Err(vec![SourceError::Nothing]));
        let files = Source { files: vec![file("a")], ..Source::default() };
        assert_eq!(files.lay_out(&Start::default()), Err(vec![SourceError::FilesWithoutCommand]));
        let empty = Source { command: Some(vec![]), ..Source::default() };
        assert_eq!(empty.lay_out(&Start::default()), Err(vec![SourceError::EmptyCommand]));
    }
}
