//! Writing a blob as its bytes come, however many there are.

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _};

use super::digest::Hashing;
use super::{Blob, BlobError, Blobs, failed};

/// What is held in memory, and sent at a time: S3 takes no smaller part but the last than 5 MiB, and
/// 10,000 of them at most.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// Dropping it without [`BlobWriter::finish`] leaves nothing that can be read.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    name: String,
    part: BytesMut,
    /// Begun once there is more than one part.
    upload: Option<Box<dyn MultipartUpload>>,
    hashing: Hashing,
    bytes: u64,
}

impl BlobWriter {
    pub(super) fn new(blobs: Blobs, name: String) -> Self {
        Self { blobs, name, part: BytesMut::new(), upload: None, hashing: Hashing::default(), bytes: 0 }
    }

    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BlobError> {
        self.hashing.update(bytes);
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.part.len() == PART_BYTES {
                self.send().await?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART_BYTES - self.part.len()));
            self.part.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), BlobError> {
        let part = self.part.split().freeze();
        let sent = self.send_part(part).await;
        if sent.is_err() {
            self.abort().await;
        }
        sent
    }

    async fn send_part(&mut self, part: Bytes) -> Result<(), BlobError> {
        let failed = failed("writing", &self.name);
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => {
                let path = Path::from(self.name.as_str());
                none.insert(self.blobs.store.put_multipart(&path).await.map_err(&failed)?)
            }
        };
        upload.put_part(part.into()).await.map_err(failed)
    }

    /// Durable when it returns.
    pub async fn finish(mut self) -> Result<Blob, BlobError> {
        let written = self.complete().await;
        if written.is_err() {
            self.abort().await;
        }
        written?;
        self.blobs.grown(self.bytes);
        Ok(Blob { name: self.name, bytes: self.bytes, digest: self.hashing.finish() })
    }

    async fn complete(&mut self) -> Result<(), BlobError> {
        let part = self.part.split().freeze();
        let failed = failed("writing", &self.name);
        if self.upload.is_none() {
            let path = Path::from(self.name.as_str());
            return self.blobs.store.put(&path, part.into()).await.map(drop).map_err(failed);
        }
        self.send_part(part).await?;
        match &mut self.upload {
            Some(upload) => upload.complete().await.map(drop).map_err(failed),
            None => Ok(()),
        }
    }

    /// What a bucket keeps of a broken upload is not ours to read, but ours to pay for.
    async fn abort(&mut self) {
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::debug!(blob.name = self.name, error = %error, "a broken upload could not be withdrawn");
        }
    }
}
