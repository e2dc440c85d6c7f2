use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug, thiserror::Error)]
pub enum BlobError {
    #[error("cannot prepare the blobs' directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the blob store cannot be set up from its configuration")]
    Open(#[source] Arc<object_store::Error>),
    #[error("the blob store failed while {doing} {name}")]
    Store {
        doing: &'static str,
        name: String,
        #[source]
        source: Arc<object_store::Error>,
    },
    #[error("the blob store did not answer within {} ms", waited.as_millis())]
    Slow { waited: Duration },
    /// It was written once; whoever deleted it was not us, or the record is older than the blobs.
    #[error("the blob {name} is not there")]
    Missing { name: String },
    #[error("bytes {from} to {to} of the blob {name} are not those that were written")]
    Damaged { name: String, from: u64, to: u64 },
}

pub(crate) fn failed(doing: &'static str, name: &str) -> impl Fn(object_store::Error) -> BlobError + use<> {
    let name = name.to_owned();
    move |source| match source {
        object_store::Error::NotFound { .. } => BlobError::Missing { name: name.clone() },
        source => BlobError::Store { doing, name: name.clone(), source: Arc::new(source) },
    }
}

impl BlobError {
    /// Nothing is wrong but that the blob store does not do it now.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Store { .. } | Self::Slow { .. }) && !self.is_disk_full()
    }

    /// The disk beneath the blobs is full.
    pub(crate) fn is_disk_full(&self) -> bool {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::StorageFull) {
                return true;
            }
            source = error.source();
        }
        false
    }
}
