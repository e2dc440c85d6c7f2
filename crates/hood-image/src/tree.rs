//! The layers merged, as names in memory. Links lead only to other names here; nothing on disk is
//! looked at, so nothing on disk can be reached.

mod apply;
mod walk;

use std::collections::BTreeMap;

use crate::bounds::{Bounds, within};
use crate::error::ImageError;

pub(crate) use apply::components;
pub(crate) use walk::Item;

/// A node's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id(u32);

const ROOT: Id = Id(0);

/// Where a file's content lies: the layer, and which of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Content {
    pub(crate) layer: u32,
    pub(crate) entry: u32,
    pub(crate) size: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Dir(BTreeMap<Box<[u8]>, Id>),
    File { content: Content, executable: bool },
    Link(Box<[u8]>),
}

#[derive(Clone, Debug)]
struct Node {
    /// The last layer that named it: whiteouts of that layer do not reach it.
    layer: u32,
    /// The last layer that removed everything beneath it that is of the layers before. There is
    /// nothing to do for the second time.
    cleared: Option<u32>,
    kind: Kind,
}

#[derive(Debug)]
pub(crate) struct Tree<'b> {
    bounds: &'b Bounds,
    nodes: Vec<Node>,
    free: Vec<Id>,
    /// The layer that is being applied.
    layer: u32,
    /// Nodes that are in the tree, the root aside.
    inodes: u64,
    bytes: u64,
}

impl<'b> Tree<'b> {
    pub(crate) fn new(bounds: &'b Bounds) -> Self {
        let root = Node { layer: 0, cleared: None, kind: Kind::Dir(BTreeMap::new()) };
        Self { bounds, nodes: vec![root], free: Vec::new(), layer: 0, inodes: 0, bytes: 0 }
    }

    pub(crate) fn begin_layer(&mut self, layer: u32) {
        self.layer = layer;
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    fn children(&self, id: Id) -> Option<&BTreeMap<Box<[u8]>, Id>> {
        match &self.node(id).kind {
            Kind::Dir(children) => Some(children),
            Kind::File { .. } | Kind::Link(_) => None,
        }
    }

    fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.children(dir)?.get(name).copied()
    }

    /// Puts a node into a directory, in the place of what has that name.
    fn put(&mut self, dir: Id, name: &[u8], kind: Kind) -> Result<Id, ImageError> {
        within("bytes in a name", name.len() as u64, self.bounds.name_bytes)?;
        self.take_away(dir, name);
        let more = match &kind {
            Kind::File { content, .. } => content.size,
            Kind::Dir(_) | Kind::Link(_) => 0,
        };
        within("bytes", self.bytes.saturating_add(more), self.bounds.bytes)?;
        within("inodes", self.inodes + 1, self.bounds.inodes)?;
        self.bytes += more;
        self.inodes += 1;
        let node = Node { layer: self.layer, cleared: None, kind };
        let id = match self.free.pop() {
            Some(id) => {
                *self.node_mut(id) = node;
                id
            }
            None => {
                let id = Id(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
                self.nodes.push(node);
                id
            }
        };
        if let Kind::Dir(children) = &mut self.node_mut(dir).kind {
            children.insert(name.into(), id);
        }
        Ok(id)
    }

    fn take_away(&mut self, dir: Id, name: &[u8]) {
        let Kind::Dir(children) = &mut self.node_mut(dir).kind else { return };
        let Some(gone) = children.remove(name) else { return };
        // Not by recursion: a tree may be as deep as its bound.
        let mut waiting = vec![gone];
        while let Some(id) = waiting.pop() {
            let kind = std::mem::replace(&mut self.node_mut(id).kind, Kind::Dir(BTreeMap::new()));
            match kind {
                Kind::Dir(children) => waiting.extend(children.into_values()),
                Kind::File { content, .. } => self.bytes -= content.size,
                Kind::Link(_) => {}
            }
            self.inodes -= 1;
            self.free.push(id);
        }
    }

    /// Removes what is in a directory and older than this layer.
    fn clear(&mut self, dir: Id) {
        let mut waiting = vec![dir];
        while let Some(id) = waiting.pop() {
            if self.node(id).cleared == Some(self.layer) {
                continue;
            }
            self.node_mut(id).cleared = Some(self.layer);
            let Some(children) = self.children(id) else { continue };
            let (mut old, mut kept) = (Vec::new(), Vec::new());
            for (name, child) in children {
                if self.node(*child).layer < self.layer {
                    old.push(name.clone());
                } else {
                    kept.push(*child);
                }
            }
            for name in old {
                self.take_away(id, &name);
            }
            waiting.extend(kept);
        }
    }
}
