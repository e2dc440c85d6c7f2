//! What the program sees: where its files lie, how it is called, which environment it has. One pure
//! function says it for every place, so that fresh, warm and cluster runs cannot differ.

use crate::limits::Limits;

/// Where files, code and the working directory are.
pub const WORK_DIR: &str = "/eval";

/// The file that `code` becomes where the environment says nothing else.
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
    /// What runs before the program.
    pub build: Option<BuildSource>,
    pub command: Option<Vec<String>>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub stdin: Vec<u8>,
}

/// A build that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildSource {
    /// The environment's own way to build `code`, where there is none.
    pub command: Option<Vec<String>>,
}

/// How `code` is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// What it is called.
    pub file: String,
    /// What must be done to it before, where something must.
    pub build: Option<Vec<String>>,
    pub run: Vec<String>,
}

impl Code {
    /// As an image runs it that has Python and says nothing.
    pub fn python() -> Self {
        let run = ["python3", MAIN_FILE].map(str::to_owned).to_vec();
        Self { file: MAIN_FILE.to_owned(), build: None, run }
    }
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
    /// How `code` alone is run, if it can be.
    pub code: Option<Code>,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            entrypoint: Vec::new(),
            arguments: Vec::new(),
            env: Vec::new(),
            workdir: None,
            code: Some(Code::python()),
        }
    }
}

impl Start {
    fn is_empty(&self) -> bool {
        self.entrypoint.is_empty() && self.arguments.is_empty()
    }
}

/// What runs before the program, in the same place and over the same files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub argv: Vec<String>,
    /// Its own; those of disk are the program's, since there is one disk.
    pub limits: Limits,
}

/// What a place needs to start it. A place adds nothing and leaves nothing out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub build: Option<Build>,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// In the order in which they are written.
    pub files: Vec<File>,
    pub stdin: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error(
        "nothing to run: give `code`, or `command` with the `files` it needs; this environment's image names nothing to \
         run by itself"
    )]
    Nothing,
    #[error("is needed: `files` alone do not say what to run; give `command`, or `code`")]
    FilesWithoutCommand,
    #[error(
        "cannot be run alone in this environment: its image has no python3 and says no other way; say with `command` \
         what runs (`code` is then a file that lies there), or name an environment with Python"
    )]
    NoCode,
    #[error("is empty: its first element names the program that runs")]
    EmptyCommand,
    #[error("is empty: its first element names the program")]
    EmptyBuild,
    #[error(
        "is needed: this environment has no way of its own to build what is sent; name the command that builds, or leave \
         `build` out"
    )]
    NoBuild,
    #[error("{}: {problem}", field.as_str())]
    Field { field: Field, problem: String },
}

impl SourceError {
    /// In another environment it may be none.
    pub const fn is_of_environment(&self) -> bool {
        matches!(self, Self::Nothing | Self::FilesWithoutCommand | Self::NoCode | Self::NoBuild)
    }
}

/// Where in the source a problem lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Path(usize),
    Command(usize),
    Build(usize),
    Arg(usize),
    Env(String),
}

impl Field {
    /// The path of the field in the request, as errors name it.
    pub fn as_str(&self) -> String {
        match self {
            Self::Path(i) => format!("files[{i}].path"),
            Self::Command(i) => format!("command[{i}]"),
            Self::Build(i) => format!("build.command[{i}]"),
            Self::Arg(i) => format!("args[{i}]"),
            Self::Env(name) => format!("env.{name}"),
        }
    }
}

impl Source {
    /// The command of the build that comes first, if one does: the one that was asked for, or the
    /// environment's own where `code` alone is to run.
    pub fn build_command<'a>(&'a self, start: &'a Start) -> Option<&'a [String]> {
        let own = || start.code.as_ref().filter(|_| self.code.is_some())?.build.as_deref();
        match &self.build {
            Some(build) => build.command.as_deref().or_else(own),
            None if self.command.is_none() => own(),
            None => None,
        }
    }

    /// Lays the source out, or says everything that is wrong with it. `build_limits` are those of a
    /// build, where there is one.
    pub fn lay_out(self, start: &Start, build_limits: &Limits) -> Result<Program, Vec<SourceError>> {
        let errors = self.problems(start);
        if !errors.is_empty() {
            return Err(errors);
        }
        let build = self.build_command(start);
        let build = build.map(|argv| Build { argv: argv.to_vec(), limits: *build_limits });
        let main = start.code.clone().unwrap_or_else(Code::python);
        let args = self.args;
        let (argv, cwd) = match (self.command, &self.code) {
            (Some(command), _) => (command.into_iter().chain(args).collect(), WORK_DIR),
            (None, Some(_)) => (main.run.into_iter().chain(args).collect(), WORK_DIR),
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
            files.push(File { path: main.file, content: code.into_bytes(), executable: false });
        }
        Ok(Program { build, argv, env, cwd: cwd.to_owned(), files, stdin: self.stdin })
    }

    /// Where `code` is written, if there is any.
    fn code_path<'a>(&'a self, start: &'a Start) -> Option<&'a str> {
        self.code.as_ref().map(|_| start.code.as_ref().map_or(MAIN_FILE, |code| code.file.as_str()))
    }

    /// Every file that will be there.
    fn paths<'a>(&'a self, start: &'a Start) -> impl Iterator<Item = &'a str> {
        self.files.iter().map(|file| file.path.as_str()).chain(self.code_path(start))
    }

    fn problems(&self, start: &Start) -> Vec<SourceError> {
        let mut errors = Vec::new();
        match (&self.code, &self.command) {
            (Some(_), None) if start.code.is_none() => errors.push(SourceError::NoCode),
            (None, None) if !start.is_empty() => {}
            (None, None) if self.files.is_empty() => errors.push(SourceError::Nothing),
            (None, None) => errors.push(SourceError::FilesWithoutCommand),
            (_, Some(command)) if command.first().is_none_or(String::is_empty) => {
                errors.push(SourceError::EmptyCommand);
            }
            _ => {}
        }
        match (&self.build, self.build_command(start)) {
            (Some(_), None) => errors.push(SourceError::NoBuild),
            (_, Some(command)) if command.first().is_none_or(String::is_empty) => {
                errors.push(SourceError::EmptyBuild);
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
            } else if self.code_path(start) == Some(file.path.as_str()) {
                wrong(
                    Field::Path(i),
                    "is where `code` is written: give this file another path, or leave `code` out",
                );
            } else if self.paths(start).any(|other| lies_beneath(&file.path, other)) {
                wrong(Field::Path(i), "lies beneath another file, which is no directory");
            }
        }
        for (i, arg) in self.command.iter().flatten().enumerate() {
            if arg.contains('\0') {
                wrong(Field::Command(i), "holds a NUL byte");
            }
        }
        for (i, arg) in self.build.iter().flat_map(|build| &build.command).flatten().enumerate() {
            if arg.contains('\0') {
                wrong(Field::Build(i), "holds a NUL byte");
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
    fn code_becomes_main_py_among_the_files() {
        let source = Source {
            code: Some("print(1)".into()),
            files: vec![file("data/a.csv")],
            args: vec!["x".into()],
            ..Source::default()
        };
        let program = source.lay_out(&Start::default(), &Limits::DEFAULT).expect("sound");
        assert_eq!(program.argv, ["python3", "main.py", "x"]);
        assert_eq!(
            program.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(),
            ["data/a.csv", "main.py"]
        );
        assert_eq!(program.files[1].content, b"print(1)");
    }

    #[test]
    fn a_file_where_code_is_written_is_refused() {
        let refused = |path: &str, main: &str, command: Option<Vec<String>>| {
            let code = Code { file: main.to_owned(), ..Code::python() };
            let start = Start { code: Some(code), ..Start::default() };
            let files = vec![file("a"), file(path)];
            let source = Source { code: Some("x".into()), files, command, ..Source::default() };
            source.lay_out(&start, &Limits::DEFAULT).err().map(|errors| errors[0].to_string())
        };
        let why =
            "files[1].path: is where `code` is written: give this file another path, or leave `code` out";
        assert_eq!(refused("main.py", "main.py", None).as_deref(), Some(why));
        assert_eq!(refused("main.c", "main.c", Some(vec!["cat".into()])).as_deref(), Some(why));
        assert_eq!(refused("main.py", "main.c", None), None, "it is not where that environment writes it");
        assert!(refused("./main.py", "main.py", None).is_some_and(|why| why.contains("component")));
        let alone =
            Source { files: vec![file("main.py")], command: Some(vec!["cat".into()]), ..Source::default() };
        assert!(alone.lay_out(&Start::default(), &Limits::DEFAULT).is_ok(), "it takes the place of nothing");
    }

    #[test]
    fn with_a_command_code_only_lies_there() {
        let source = Source {
            code: Some("x".into()),
            command: Some(vec!["cat".into(), "main.py".into()]),
            ..Source::default()
        };
        assert_eq!(
            source.lay_out(&Start::default(), &Limits::DEFAULT).expect("sound").argv,
            ["cat", "main.py"]
        );
    }

    #[test]
    fn the_environment_is_the_base_and_what_is_added() {
        let env = vec![("LANG".to_owned(), "de_DE".to_owned()), ("A".to_owned(), String::new())];
        let program = Source { code: Some(String::new()), env, ..Source::default() }
            .lay_out(&Start::default(), &Limits::DEFAULT)
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
            code: None,
        }
    }

    #[test]
    fn an_images_entrypoint_runs_where_nothing_else_is_given() {
        let program = |args: &[&str]| {
            let args = args.iter().map(|arg| (*arg).to_owned()).collect();
            Source { args, files: vec![file("data")], ..Source::default() }
                .lay_out(&image(), &Limits::DEFAULT)
                .expect("sound")
        };
        assert_eq!(program(&[]).argv, ["/bin/app", "--help"]);
        assert_eq!(program(&["x"]).argv, ["/bin/app", "x"]);
        assert_eq!(program(&[]).cwd, "/srv");
        let command = Source { command: Some(vec!["ls".into()]), ..Source::default() };
        let program = command.lay_out(&image(), &Limits::DEFAULT).expect("sound");
        assert_eq!((program.argv.as_slice(), program.cwd.as_str()), (&["ls".to_owned()][..], WORK_DIR));
    }

    #[test]
    fn an_images_variables_lie_between_ours_and_the_requests() {
        let env = vec![("A".to_owned(), "request".to_owned())];
        let program = Source { env, ..Source::default() }.lay_out(&image(), &Limits::DEFAULT).expect("sound");
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
        assert_eq!(source.clone().lay_out(&image(), &Limits::DEFAULT), Err(vec![SourceError::NoCode]));
        let program =
            Source { command: Some(vec!["cat".into()]), ..source }.lay_out(&image(), &Limits::DEFAULT);
        assert_eq!(program.expect("sound").files.len(), 1);
    }

    fn compiled() -> Start {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (build, run) = (Some(words("cc -o main main.c")), words("./main"));
        Start { code: Some(Code { file: "main.c".into(), build, run }), ..Start::default() }
    }

    #[test]
    fn code_is_built_and_run_as_the_environment_says() {
        let limits = Limits { wall_ms: 5, ..Limits::DEFAULT };
        let source = Source { code: Some("int main;".into()), args: vec!["x".into()], ..Source::default() };
        let program = source.clone().lay_out(&compiled(), &limits).expect("sound");
        assert_eq!(program.argv, ["./main", "x"]);
        assert_eq!(program.files[0].path, "main.c");
        let build = program.build.expect("one");
        assert_eq!((build.argv.join(" ").as_str(), build.limits.wall_ms), ("cc -o main main.c", 5));
        let own = Some(BuildSource { command: Some(vec!["make".into()]) });
        let other = Source { build: own, ..source.clone() }.lay_out(&compiled(), &limits).expect("sound");
        assert_eq!(
            (other.build.expect("one").argv, other.argv[0].as_str()),
            (vec!["make".to_owned()], "./main")
        );
        // Whoever says what runs says what is built, too.
        let command = Some(vec!["cat".into(), "main.c".into()]);
        let program = Source { command, ..source }.lay_out(&compiled(), &limits).expect("sound");
        assert_eq!(program.build, None);
    }

    #[test]
    fn a_build_needs_a_command_where_the_environment_has_none() {
        let build = Some(BuildSource::default());
        let code = Source { code: Some(String::new()), build: build.clone(), ..Source::default() };
        let errors = code.clone().lay_out(&Start::default(), &Limits::DEFAULT);
        assert_eq!(errors, Err(vec![SourceError::NoBuild]));
        assert!(code.lay_out(&compiled(), &Limits::DEFAULT).expect("sound").build.is_some());
        let files =
            Source { files: vec![file("a")], command: Some(vec!["./a".into()]), build, ..Source::default() };
        let errors = files.lay_out(&compiled(), &Limits::DEFAULT);
        assert_eq!(errors, Err(vec![SourceError::NoBuild]), "`files` are not what the environment builds");
        let empty = Some(BuildSource { command: Some(vec![]) });
        let source = Source { code: Some(String::new()), build: empty, ..Source::default() };
        assert_eq!(source.lay_out(&compiled(), &Limits::DEFAULT), Err(vec![SourceError::EmptyBuild]));
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
        let errors = source.lay_out(&Start::default(), &Limits::DEFAULT).expect_err("all wrong");
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
            assert_eq!(
                source(wrong).lay_out(&Start::default(), &Limits::DEFAULT).expect_err("conflict").len(),
                1,
                "{wrong:?}"
            );
        }
        assert!(source(&["a/b", "a/c", "ab", "a.py"]).lay_out(&Start::default(), &Limits::DEFAULT).is_ok());
    }

    #[test]
    fn nothing_to_run_is_said() {
        assert_eq!(
            Source::default().lay_out(&Start::default(), &Limits::DEFAULT),
            Err(vec![SourceError::Nothing])
        );
        let files = Source { files: vec![file("a")], ..Source::default() };
        assert_eq!(
            files.lay_out(&Start::default(), &Limits::DEFAULT),
            Err(vec![SourceError::FilesWithoutCommand])
        );
        let empty = Source { command: Some(vec![]), ..Source::default() };
        assert_eq!(empty.lay_out(&Start::default(), &Limits::DEFAULT), Err(vec![SourceError::EmptyCommand]));
    }
}
