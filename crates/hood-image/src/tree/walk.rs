//! What has become of the layers, to be written down.

use std::collections::BTreeMap;

use super::{Content, Id, Kind, ROOT, Tree, components};
use crate::error::ImageError;

/// Directories where a place mounts something of its own: nothing of an image is in them.
const SEATS: [&[u8]; 4] = [b"dev", b"eval", b"proc", b"tmp"];
/// What an exported image has besides its tree, and the kernel's view of a host.
const LEFT_OUT: [&[u8]; 2] = [b".fumehood", b"sys"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Dir,
    File { content: Content, executable: bool },
    Link(Vec<u8>),
}

impl Tree<'_> {
    /// Makes the directory where the image's program runs, as every runtime does.
    pub(crate) fn make_workdir(&mut self, workdir: &str) -> Result<(), ImageError> {
        self.make_dirs(&components(workdir.as_bytes())?, workdir.as_bytes()).map(drop)
    }

    /// Empties the directories that a place mounts over. What is to be the program's directory must not lie
    /// in one of them.
    pub(crate) fn seat(&mut self, workdir: &str) -> Result<(), ImageError> {
        for name in LEFT_OUT {
            self.take_away(ROOT, name);
        }
        for name in SEATS {
            self.put(ROOT, name, Kind::Dir(BTreeMap::new()))?;
        }
        if self.find_dir(&components(workdir.as_bytes())?, workdir.as_bytes())?.is_none() {
            let why =
                "is its WorkingDir, and lies where every place mounts its own: nothing of an image is there";
            return Err(ImageError::malformed(workdir, why));
        }
        Ok(())
    }

    /// Everything, each directory before what it holds, with paths relative to the root.
    pub(crate) fn items(&self) -> Vec<(Vec<u8>, Item)> {
        let mut items = Vec::with_capacity(usize::try_from(self.inodes).unwrap_or_default());
        let mut waiting: Vec<(Vec<u8>, Id)> = vec![(Vec::new(), ROOT)];
        while let Some((path, dir)) = waiting.pop() {
            for (name, child) in self.children(dir).into_iter().flatten() {
                let path = if path.is_empty() { name.to_vec() } else { [&path, &b"/"[..], name].concat() };
                let item = match &self.node(*child).kind {
                    Kind::Dir(_) => {
                        waiting.push((path.clone(), *child));
                        Item::Dir
                    }
                    Kind::File { content, executable } => {
                        Item::File { content: *content, executable: *executable }
                    }
                    Kind::Link(target) => Item::Link(target.to_vec()),
                };
                items.push((path, item));
            }
        }
        items
    }
}

#[cfg(fuzzing)]
impl Tree<'_> {
    /// Counts again what is counted on the way, and looks at every name.
    pub(crate) fn assert_sound(&self) {
        let items = self.items();
        assert_eq!(items.len() as u64, self.inodes, "inodes");
        let mut bytes = 0;
        let mut dirs = std::collections::BTreeSet::from([Vec::new()]);
        for (path, item) in items {
            let split = path.iter().rposition(|byte| *byte == b'/');
            assert!(dirs.contains(&path[..split.unwrap_or_default()]), "{path:?} has no directory");
            assert!(
                path.split(|byte| *byte == b'/').count() as u64 <= self.bounds.depth,
                "{path:?} is too deep"
            );
            for name in path.split(|byte| *byte == b'/') {
                assert!(!matches!(name, b"" | b"." | b".."), "{path:?}");
                assert!(!name.contains(&0) && name.len() as u64 <= self.bounds.name_bytes, "{path:?}");
                assert!(!name.starts_with(b".wh."), "{path:?}");
            }
            match item {
                Item::Dir => assert!(dirs.insert(path), "twice"),
                Item::File { content, .. } => bytes += content.size,
                Item::Link(target) => assert!(!target.is_empty() && !target.contains(&0)),
            }
        }
        assert_eq!(bytes, self.bytes, "bytes");
    }
}
