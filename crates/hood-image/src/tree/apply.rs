//! One entry of a layer, applied.

use std::collections::BTreeMap;

use super::{Content, Id, Kind, ROOT, Tree};
use crate::bounds::within;
use crate::error::{ImageError, show};
use crate::tar::{self, Entry};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Of a file system that Docker once used; they mean nothing in an image.
const FOREIGN_WHITEOUT: &[u8] = b".wh..wh.";

/// Steps from name to name that one path may take through links: enough for any that was meant.
const STEPS_MAX: usize = 1024;

/// What the components of a path are, without empty ones and dots. `..` is refused: no builder of
/// images writes it, and what it should mean is what attacks are made of.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, ImageError> {
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        return Err(ImageError::malformed(show(path), "has `..` in its path"));
    }
    Ok(names)
}

impl Tree<'_> {
    /// Applies an entry; `number` says which of its layer it is.
    pub(crate) fn apply(&mut self, entry: &Entry, number: u32) -> Result<(), ImageError> {
        let path = components(&entry.path)?;
        let Some((name, parents)) = path.split_last() else {
            // The root itself, which is there.
            return match entry.kind {
                tar::Kind::Dir => Ok(()),
                _ => Err(ImageError::malformed(show(&entry.path), "is in the place of the root")),
            };
        };
        if name.starts_with(FOREIGN_WHITEOUT) && *name != OPAQUE {
            return Ok(());
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(entry, name, parents);
        }
        let kind = match entry.kind {
            tar::Kind::Dir => Kind::Dir(BTreeMap::new()),
            tar::Kind::File => Kind::File {
                content: Content { layer: self.layer, entry: number, size: entry.size },
                executable: entry.mode & 0o111 != 0,
            },
            tar::Kind::SymbolicLink if entry.target.is_empty() => {
                return Err(ImageError::malformed(show(&entry.path), "is a link to nothing"));
            }
            tar::Kind::SymbolicLink => Kind::Link(entry.target.as_slice().into()),
            // Looked up before anything is put: it may lead to what it replaces.
            tar::Kind::HardLink => self.linked(entry)?,
            tar::Kind::Special => {
                // Not taken, but what was there before is gone all the same.
                if let Some(parent) = self.find_dir(parents, &entry.path)? {
                    self.take_away(parent, name);
                }
                return Ok(());
            }
        };
        let parent = self.make_dirs(parents, &entry.path)?;
        if let (Kind::Dir(_), Some(present)) = (&kind, self.child(parent, name))
            && self.children(present).is_some()
        {
            self.node_mut(present).layer = self.layer;
            return Ok(());
        }
        self.put(parent, name, kind).map(drop)
    }

    fn whiteout(&mut self, entry: &Entry, name: &[u8], parents: &[&[u8]]) -> Result<(), ImageError> {
        let Some(parent) = self.find_dir(parents, &entry.path)? else { return Ok(()) };
        if name == OPAQUE {
            self.clear(parent);
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ImageError::malformed(show(&entry.path), "is a whiteout of no name"));
        }
        let Some(child) = self.child(parent, hidden) else { return Ok(()) };
        if self.node(child).layer < self.layer {
            self.take_away(parent, hidden);
        } else {
            // This layer put it there anew; what is older beneath it goes.
            self.clear(child);
        }
        Ok(())
    }

    /// What a hard link shares with its target.
    fn linked(&self, entry: &Entry) -> Result<Kind, ImageError> {
        let wrong = |problem: &str| {
            let to = show(&entry.target);
            Err(ImageError::malformed(show(&entry.path), format!("is a hard link to {to}, {problem}")))
        };
        let target = components(&entry.target)?;
        let Some((name, parents)) = target.split_last() else { return wrong("which is the root") };
        let parent = self.find_dir(parents, &entry.path)?;
        match parent.and_then(|parent| self.child(parent, name)).map(|id| &self.node(id).kind) {
            None => wrong("which is not there"),
            Some(Kind::Dir(_)) => wrong("which is a directory"),
            Some(kind) => Ok(kind.clone()),
        }
    }

    /// The directory that a path leads to, links in it followed. `None` where there is none.
    pub(super) fn find_dir(&self, path: &[&[u8]], of: &[u8]) -> Result<Option<Id>, ImageError> {
        let mut way = Way::new(path);
        while let Some(name) = way.next(of)? {
            if name == b".." {
                way.up();
                continue;
            }
            let Some(child) = self.child(way.at(), &name) else { return Ok(None) };
            match &self.node(child).kind {
                Kind::Dir(_) => way.down(child),
                Kind::Link(target) => way.turn(target),
                Kind::File { .. } => return Ok(None),
            }
        }
        Ok(Some(way.at()))
    }

    /// As above, and makes what is missing. What is on the way belongs to this layer from now on: it
    /// holds something of it.
    pub(super) fn make_dirs(&mut self, path: &[&[u8]], of: &[u8]) -> Result<Id, ImageError> {
        let mut way = Way::new(path);
        while let Some(name) = way.next(of)? {
            if name == b".." {
                way.up();
                continue;
            }
            match self.child(way.at(), &name).map(|id| (id, &self.node(id).kind)) {
                Some((id, Kind::Dir(_))) => {
                    self.node_mut(id).layer = self.layer;
                    way.down(id);
                }
                Some((_, Kind::Link(target))) => way.turn(target),
                Some((_, Kind::File { .. })) => {
                    return Err(ImageError::malformed(show(of), "lies beneath a file"));
                }
                None if name.starts_with(WHITEOUT) => {
                    return Err(ImageError::malformed(show(of), "has a name that only whiteouts have"));
                }
                None => {
                    // Before it is made: what fails must leave no directory deeper than the bound.
                    within("components in a path", way.dirs.len() as u64, self.bounds.depth)?;
                    let made = self.put(way.at(), &name, Kind::Dir(BTreeMap::new()))?;
                    way.down(made);
                }
            }
        }
        // Of what is put there; through links, a path is longer than it looks.
        within("components in a path", way.dirs.len() as u64, self.bounds.depth)?;
        Ok(way.at())
    }

    /// Whether a program of this name is found along these directories, as it would be in a place.
    pub(crate) fn has_program(&self, name: &str, path: &str) -> bool {
        path.split(':').filter(|dir| dir.starts_with('/')).any(|dir| {
            let names: Vec<&[u8]> = dir.split('/').chain([name]).map(str::as_bytes).collect();
            self.is_program(&names)
        })
    }

    fn is_program(&self, path: &[&[u8]]) -> bool {
        let mut way = Way::new(path);
        while let Ok(Some(name)) = way.next(b"") {
            match name.as_slice() {
                b".." => way.up(),
                b"" | b"." => {}
                name => match self.child(way.at(), name).map(|id| (id, &self.node(id).kind)) {
                    None => return false,
                    Some((id, Kind::Dir(_))) => way.down(id),
                    Some((_, Kind::Link(target))) => way.turn(target),
                    Some((_, Kind::File { executable, .. })) => return *executable && way.names.is_empty(),
                },
            }
        }
        false
    }
}

/// A walk from the root along names, some of which are links.
struct Way {
    /// From the root to where we are.
    dirs: Vec<Id>,
    /// Names still to go, the next one last.
    names: Vec<Vec<u8>>,
    steps: usize,
}

impl Way {
    fn new(path: &[&[u8]]) -> Self {
        Self { dirs: vec![ROOT], names: path.iter().rev().map(|name| name.to_vec()).collect(), steps: 0 }
    }

    fn next(&mut self, of: &[u8]) -> Result<Option<Vec<u8>>, ImageError> {
        self.steps += 1;
        if self.steps > STEPS_MAX || self.names.len() > STEPS_MAX {
            return Err(ImageError::malformed(show(of), "lies behind links that lead on and on"));
        }
        Ok(self.names.pop())
    }

    fn at(&self) -> Id {
        self.dirs.last().copied().unwrap_or(ROOT)
    }

    fn down(&mut self, dir: Id) {
        self.dirs.push(dir);
    }

    /// Above the root is the root.
    fn up(&mut self) {
        if self.dirs.len() > 1 {
            self.dirs.pop();
        }
    }

    /// Goes on where a link leads.
    fn turn(&mut self, target: &[u8]) {
        if target.starts_with(b"/") {
            self.dirs.truncate(1);
        }
        let names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        self.names.extend(names.rev().map(<[u8]>::to_vec));
    }
}
