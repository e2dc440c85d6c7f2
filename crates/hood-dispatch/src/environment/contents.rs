//! What goes into an image made from the host's Python, decided before a byte is written.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::elf;
use super::error::EnvironmentError;
use super::host::HostPython;
use super::linker::{LinkError, Linker};

/// How large an image may become. Python with its library has about 60 MB in 2,000 files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub bytes: u64,
    /// Files, directories and links together.
    pub inodes: u64,
    /// Components of a path.
    pub depth: u64,
}

/// Bytes of a path within an image. The kernel takes paths of up to 4095, and wherever an image lies, what
/// is in it must be found there: this leaves a kilobyte for the way to it.
pub const PATH_BYTES_MAX: usize = 3072;

impl Bounds {
    pub const DEFAULT: Self = Self { bytes: 1024 * 1024 * 1024, inodes: 50_000, depth: 32 };
    /// Of what packages are put together into: PyTorch with CUDA has 7 GB in 30,000 files.
    pub const PACKAGES: Self = Self { bytes: 16 << 30, inodes: 500_000, depth: 48 };
    /// Of what comes from elsewhere: as much as the largest that people use, a framework with CUDA.
    pub const IMPORTED: Self = Self { bytes: 16 * 1024 * 1024 * 1024, inodes: 500_000, depth: 64 };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File {
        source: Source,
        executable: bool,
    },
    /// Relative, so that it leads to the same place wherever the image is mounted.
    Link(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Copy(PathBuf),
    /// Bytecode that its source's time vouches for: the time is set to the image's.
    Bytecode(PathBuf),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Contents {
    /// By path in the image, without a leading slash; a directory comes before what it holds.
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) bytes: u64,
    /// Files and directories of the host whose change means that this plan is out of date.
    pub(super) witnesses: Vec<PathBuf>,
    pub(super) bounds: Bounds,
}

/// Directories of the library that stay behind, wherever they are: what was installed, and tests.
const LEFT_DIRS: [&str; 5] = ["site-packages", "dist-packages", "test", "tests", "idle_test"];
/// And at its top: what installs, and what needs a screen.
const LEFT_TOP_DIRS: [&str; 4] = ["ensurepip", "idlelib", "tkinter", "turtledemo"];
const LEFT_TOP_FILES: [&str; 4] = ["EXTERNALLY-MANAGED", "sitecustomize.py", "usercustomize.py", "turtle.py"];
const LEFT_SUFFIXES: [&str; 5] = [".pth", ".a", ".o", ".exe", ".pyc"];
/// Extension modules that stay behind: a screen, tests of the interpreter itself, and Sun's
/// directory service, which would bring Kerberos.
const LEFT_EXTENSIONS: [&str; 6] =
    ["_tkinter.", "_test", "_ctypes_test.", "_xxtestfuzz.", "xxlimited", "nis."];

/// What glibc opens by itself: to end a thread, and to read `/etc/passwd` before 2.34.
const OPENED_AT_RUN_TIME: [&str; 2] = ["libgcc_s.so.1", "libnss_files.so.2"];

/// The locale that every program is started with.
const C_UTF8_DIRS: [&str; 2] = ["/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8"];

pub(super) const DIRS: [&str; 8] =
    ["dev", "eval", "proc", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin"];
pub(super) const LINKS: [(&str, &str); 4] =
    [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin")];

/// Users are those of a place (its agent is 0, its program 1000); names are looked up in files alone.
pub(super) const TEXTS: [(&str, &str); 4] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/bin/sh\neval:x:1000:1000:evaluation:/eval:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\neval:x:1000:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// Directories where a loader looks in an image, which has no cache of its own.
const LIBRARY_ROOTS: [&str; 2] = ["usr/lib", "usr/lib64"];

/// Flags of bytecode: 0 means that time and size of the source vouch for it, 1 that a hash does.
const PYC_HEADER_BYTES: usize = 16;

impl Contents {
    /// Plans an image of this interpreter. `found` is what its name led to.
    pub(super) fn plan(found: &Path, python: &HostPython, bounds: Bounds) -> Result<Self, EnvironmentError> {
        let witnesses = vec![found.to_owned()];
        let mut contents = Self { nodes: BTreeMap::new(), bytes: 0, witnesses, bounds };
        for dir in DIRS {
            contents.insert(dir, Node::Dir)?;
        }
        for (path, target) in LINKS {
            contents.insert(path, Node::Link(target.to_owned()))?;
        }
        for (path, text) in TEXTS {
            contents.bytes(path, text.as_bytes().to_vec())?;
        }
        let name = &python.stdlib_name;
        if !name.starts_with("python") || name.contains('/') || python.lib.contains('/') {
            let (dir, lib) = (python.stdlib.display(), &python.lib);
            return Err(contents.unsuitable(python, format!("its library is {dir}, beneath `{lib}`")));
        }
        contents.program(&format!("usr/bin/{name}"), &python.executable)?;
        contents.insert("usr/bin/python3", Node::Link(name.clone()))?;
        contents.insert("usr/bin/python", Node::Link(name.clone()))?;
        let library = format!("usr/{}/{name}", python.lib);
        contents.library_dir(&python.stdlib.clone(), &library, python, true)?;
        contents.objects(python, &library)?;
        contents.locale(python)?;
        contents.witnesses.sort();
        contents.witnesses.dedup();
        Ok(contents)
    }

    pub(super) fn files(&self) -> u64 {
        self.nodes.values().filter(|node| matches!(node, Node::File { .. })).count() as u64
    }

    fn unsuitable(&self, python: &HostPython, problem: String) -> EnvironmentError {
        EnvironmentError::Unsuitable {
            interpreter: python.executable.clone(),
            found: format!("cpython {}", python.version),
            problem,
        }
    }

    /// Adds a node and the directories that it lies in. What is there already stays.
    fn insert(&mut self, path: &str, node: Node) -> Result<(), EnvironmentError> {
        let depth = path.split('/').count() as u64;
        self.bound("path components", depth, self.bounds.depth)?;
        for (at, _) in path.match_indices('/') {
            self.nodes.entry(path[..at].to_owned()).or_insert(Node::Dir);
        }
        self.nodes.entry(path.to_owned()).or_insert(node);
        self.bound("inodes", self.nodes.len() as u64, self.bounds.inodes)
    }

    fn bound(&self, what: &'static str, found: u64, maximum: u64) -> Result<(), EnvironmentError> {
        if found > maximum { Err(EnvironmentError::TooLarge { what, found, maximum }) } else { Ok(()) }
    }

    fn bytes(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), EnvironmentError> {
        self.count(bytes.len() as u64)?;
        self.insert(path, Node::File { source: Source::Bytes(bytes), executable: false })
    }

    fn file(&mut self, path: &str, source: Source, executable: bool) -> Result<(), EnvironmentError> {
        if let Source::Copy(host) | Source::Bytecode(host) = &source {
            let meta = fs::metadata(host).map_err(EnvironmentError::io("look at", host))?;
            self.count(meta.len())?;
        }
        self.insert(path, Node::File { source, executable })
    }

    fn count(&mut self, more: u64) -> Result<(), EnvironmentError> {
        self.bytes = self.bytes.saturating_add(more);
        self.bound("bytes", self.bytes, self.bounds.bytes)
    }

    fn program(&mut self, path: &str, host: &Path) -> Result<(), EnvironmentError> {
        self.witnesses.push(host.to_owned());
        self.file(path, Source::Copy(host.to_owned()), true)
    }

    /// A directory of the standard library, links in it followed.
    fn library_dir(
        &mut self,
        host: &Path,
        path: &str,
        python: &HostPython,
        top: bool,
    ) -> Result<(), EnvironmentError> {
        self.insert(path, Node::Dir)?;
        self.witnesses.push(host.to_owned());
        let unreadable = |source| EnvironmentError::io("read the directory", host)(source);
        for entry in fs::read_dir(host).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            // No import statement can name a file whose name is not text.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (from, to) = (host.join(&name), format!("{path}/{name}"));
            // A link to nothing has nothing to copy.
            let Ok(meta) = fs::metadata(&from) else { continue };
            if name.contains(char::is_control) || is_left_behind(&name, meta.is_dir(), top) {
                continue;
            }
            if meta.is_dir() {
                self.library_dir(&from, &to, python, false)?;
            } else if meta.is_file() {
                self.library_file(&from, &to, &meta, python)?;
            }
        }
        Ok(())
    }

    fn library_file(
        &mut self,
        from: &Path,
        to: &str,
        meta: &fs::Metadata,
        python: &HostPython,
    ) -> Result<(), EnvironmentError> {
        let name = to.rsplit('/').next().unwrap_or(to);
        if name.starts_with("_sysconfigdata") && python.prefix != "/usr" && python.prefix.len() > 1 {
            // Else `sysconfig` would tell of directories that the image does not have. Its bytecode
            // would be of another text and stays behind.
            let text = fs::read_to_string(from).map_err(EnvironmentError::io("read", from))?;
            return self.bytes(to, text.replace(&python.prefix, "/usr").into_bytes());
        }
        self.file(to, Source::Copy(from.to_owned()), meta.mode() & 0o111 != 0)?;
        let Some(stem) = name.strip_suffix(".py") else { return Ok(()) };
        let compiled = format!("{stem}.{}.pyc", python.cache_tag);
        let host = from.with_file_name("__pycache__").join(&compiled);
        let Some(source) = bytecode(&host, meta, python.magic) else { return Ok(()) };
        let dir = to.rsplit_once('/').map_or("", |(dir, _)| dir);
        self.file(&format!("{dir}/__pycache__/{compiled}"), source, false)
    }

    /// Extension modules, and the shared objects that they and the interpreter need.
    fn objects(&mut self, python: &HostPython, library: &str) -> Result<(), EnvironmentError> {
        let root = read_object(&python.executable)?
            .ok_or_else(|| self.unsuitable(python, "it is no ELF executable".to_owned()))?;
        let mut linker = Linker::new(&python.executable, &root, &python.library_path);
        linker.require(&python.executable, &root).map_err(|error| self.link_error(error))?;
        if let Some(dynload) = &python.dynload {
            self.extensions(dynload, &format!("{library}/lib-dynload"), &mut linker)?;
        }
        if let Some(shell) = self.shell(&mut linker)? {
            self.program("usr/bin/sh", &shell)?;
        }
        for name in OPENED_AT_RUN_TIME {
            linker.require_if_there(name).map_err(|error| self.link_error(error))?;
        }
        let Some(interpreter) = root.interpreter else { return Ok(()) };
        let loader = fs::canonicalize(&interpreter).map_err(EnvironmentError::io("find", &interpreter))?;
        let libraries = linker.into_libraries();
        let libc =
            libraries.iter().find(|(name, _)| name.starts_with("libc.")).map_or(&loader, |(_, path)| path);
        let dir = self.library_home(libc, python)?;
        for (name, host) in libraries.into_iter().filter(|(_, host)| *host != loader) {
            // Each under the name that asks for it, and all where the loader looks by itself: the
            // directories of the host that RPATHs and the cache name are not in the image.
            let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
            self.witnesses.push(host.clone());
            self.file(&format!("{dir}/{name}"), Source::Copy(host), false)?;
        }
        self.program(&in_image(Path::new(&interpreter)), &loader)
    }

    /// The directory in which this host's C library lies, if a loader of its kind looks there.
    fn library_home(&self, libc: &Path, python: &HostPython) -> Result<String, EnvironmentError> {
        let dir = in_image(libc.parent().unwrap_or(Path::new("/")));
        let known = LIBRARY_ROOTS.iter().any(|root| Path::new(&dir).starts_with(root));
        if known {
            return Ok(dir);
        }
        let problem = format!(
            "the C library is {}; only hosts with the usual directories, /lib and /usr/lib, will do",
            libc.display()
        );
        Err(self.unsuitable(python, problem))
    }

    fn extensions(&mut self, host: &Path, path: &str, linker: &mut Linker) -> Result<(), EnvironmentError> {
        self.witnesses.push(host.to_owned());
        let unreadable = |source| EnvironmentError::io("read the directory", host)(source);
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(host).map_err(unreadable)? {
            names.extend(entry.map_err(unreadable)?.file_name().into_string().ok());
        }
        // In order, so that the same host gives the same choice of libraries.
        names.sort();
        for name in names {
            let left = LEFT_EXTENSIONS.iter().any(|prefix| name.starts_with(prefix));
            if left || !name.ends_with(".so") || name.contains(char::is_control) {
                continue;
            }
            let file = host.join(&name);
            let Some(object) = read_object(&file)? else { continue };
            match linker.require(&file, &object) {
                Ok(()) => {
                    self.witnesses.push(file.clone());
                    self.file(&format!("{path}/{name}"), Source::Copy(file), false)?;
                }
                // It cannot be imported on the host either.
                Err(LinkError::Missing { library, .. }) => {
                    tracing::warn!(module = %name, library = %library, "an extension module lacks a library and is left out");
                }
                Err(error) => return Err(self.link_error(error)),
            }
        }
        Ok(())
    }

    /// The host's `/bin/sh` with what it needs, for `os.system` and `shell=True`. A host without one
    /// gives an image without one.
    fn shell(&self, linker: &mut Linker) -> Result<Option<PathBuf>, EnvironmentError> {
        let Ok(shell) = fs::canonicalize("/bin/sh") else { return Ok(None) };
        let Some(object) = read_object(&shell)? else { return Ok(None) };
        match linker.require(&shell, &object) {
            Ok(()) => Ok(Some(shell)),
            Err(LinkError::Missing { .. }) => Ok(None),
            Err(error) => Err(self.link_error(error)),
        }
    }

    fn locale(&mut self, python: &HostPython) -> Result<(), EnvironmentError> {
        let Some(dir) = C_UTF8_DIRS.into_iter().find(|dir| Path::new(dir).is_dir()) else { return Ok(()) };
        self.library_dir(Path::new(dir), "usr/lib/locale/C.utf8", python, false)
    }

    fn link_error(&self, error: LinkError) -> EnvironmentError {
        match error {
            LinkError::Missing { library, wanted_by } => {
                EnvironmentError::MissingLibrary { library, wanted_by }
            }
            LinkError::TooMany => {
                let maximum = super::linker::OBJECTS_MAX as u64;
                EnvironmentError::TooLarge { what: "shared objects", found: maximum + 1, maximum }
            }
            LinkError::Read { path, source } => EnvironmentError::io("read", path)(source),
        }
    }
}

fn read_object(path: &Path) -> Result<Option<elf::Object>, EnvironmentError> {
    elf::read(path).map_err(EnvironmentError::io("read", path))
}

fn is_left_behind(name: &str, dir: bool, top: bool) -> bool {
    if dir {
        // `lib-dynload` comes by itself, `__pycache__` with each source, `config-*` is for linking.
        let handled =
            name == "__pycache__" || (top && (name == "lib-dynload" || name.starts_with("config-")));
        return handled || LEFT_DIRS.contains(&name) || (top && LEFT_TOP_DIRS.contains(&name));
    }
    LEFT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) || (top && LEFT_TOP_FILES.contains(&name))
}

/// Compiled code that Python would take for this source.
fn bytecode(path: &Path, source: &fs::Metadata, magic: [u8; 4]) -> Option<Source> {
    let mut header = [0; PYC_HEADER_BYTES];
    fs::File::open(path).ok()?.read_exact(&mut header).ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    if header[..4] != magic {
        return None;
    }
    match word(4)? {
        // Both are kept in 32 bits, whatever they are.
        0 => {
            let same = word(8)? == source.mtime() as u32 && word(12)? == source.size() as u32;
            same.then(|| Source::Bytecode(path.to_owned()))
        }
        1 | 3 => Some(Source::Copy(path.to_owned())),
        _ => None,
    }
}

/// Where a path of the host lies in an image, in which all is beneath `/usr`.
fn in_image(host: &Path) -> String {
    let path = host.to_string_lossy();
    let path = path.trim_start_matches('/');
    match path.split('/').next() {
        Some("lib" | "lib64" | "bin" | "sbin") => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}
