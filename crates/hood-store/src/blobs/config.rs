use std::fmt;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobsConfig {
    pub place: BlobPlace,
}

impl BlobsConfig {
    pub const fn files(dir: PathBuf) -> Self {
        Self { place: BlobPlace::Files(dir) }
    }

    pub const fn memory() -> Self {
        Self { place: BlobPlace::Memory }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobPlace {
    /// A directory of our own; made with mode 0700 if it is not there.
    Files(PathBuf),
    S3(S3Config),
    /// Of this process alone, and gone with it: for one that has nothing large.
    Memory,
}

#[derive(Clone, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// What every object's name begins with; empty for nothing.
    pub prefix: String,
    /// `None`: the region's own, at AWS.
    pub endpoint: Option<String>,
    pub region: String,
    /// `None`: as AWS's own tools find them, from the environment of the start or from the machine.
    pub keys: Option<S3Keys>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct S3Keys {
    pub id: String,
    pub secret: String,
}

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Keys")
    }
}

/// Without the keys.
impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}
