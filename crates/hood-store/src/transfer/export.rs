use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt as _;

use super::{Column, FORMAT, Line, Moved, Progress, TABLES, TransferError, columns, file, read};
use crate::blobs::{Blob, Blobs};
use crate::config::StoreConfig;
use crate::db::{self, Connection, Readers, query};
use crate::error::OpenError;
use crate::migrate::{self, Duty};
use crate::ops::blobs::read_blob;
use crate::writer::failed;

/// How hard to press: it is read once, and what is at hand has other work.
const LEVEL: i32 = 3;

/// Bytes of a blob in one line.
const PIECE_BYTES: u64 = 1024 * 1024;

type Stream<W> = zstd::Encoder<'static, W>;

/// Writes all that the store keeps, as of one moment. What is written after that moment is not in it:
/// whoever moves stops its processes first.
pub async fn export<W: Write>(
    config: &StoreConfig,
    out: W,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<(Moved, W), TransferError> {
    let readers = readers(config).await?;
    let mut stream = zstd::Encoder::new(out, LEVEL).map_err(file("write"))?;
    let written_by = env!("CARGO_PKG_VERSION").to_owned();
    let begin = Line::Begin { format: FORMAT, schema: migrate::known(), written_by };
    say(&mut stream, &begin)?;
    let mut look = readers.begin().await.map_err(failed("beginning to read"))?;
    let db = &mut look.connection();
    let kept = kept(db).await?;
    let mut moved = Moved::default();
    for table in TABLES {
        let columns = columns(db, table).await?;
        say(&mut stream, &Line::Table { name: (*table).to_owned(), columns: columns.clone() })?;
        let count = rows(db, (table, &columns), &mut stream).await?;
        moved.rows.insert((*table).to_owned(), count);
        progress(Progress { what: table, count });
    }
    // Nothing is held of the database while another store is asked.
    drop(look);
    readers.close().await;
    let blobs = Blobs::open(&config.blobs).await.map_err(OpenError::from)?;
    for blob in &kept {
        copy(&blobs, blob, &mut stream).await?;
        (moved.blobs, moved.blob_bytes) = (moved.blobs + 1, moved.blob_bytes + blob.bytes);
    }
    progress(Progress { what: "blobs", count: moved.blobs });
    say(&mut stream, &Line::End(moved.clone()))?;
    Ok((moved, stream.finish().map_err(file("write"))?))
}

/// Connections to a database whose schema is the one that we know.
async fn readers(config: &StoreConfig) -> Result<Readers, TransferError> {
    let Some(url) = &config.url else {
        let path = db::sqlite::file(&config.dir);
        let at = path.display().to_string();
        let connect = |source| OpenError::Connect { at: at.clone(), source };
        let readers = db::sqlite::connect_readers(&path, 1).await.map_err(connect)?;
        let mut one = readers.acquire().await.map_err(connect)?;
        migrate::ensure(&mut Connection::Sqlite(&mut one), &at, Duty::Check).await?;
        drop(one);
        return Ok(Readers::Sqlite(readers));
    };
    let at = url.to_string();
    let connect = |source| OpenError::Connect { at: at.clone(), source };
    let readers = db::postgres::reader_of_all(url).map_err(connect)?;
    let mut one = readers.acquire().await.map_err(connect)?;
    migrate::ensure(&mut Connection::Postgres(&mut one), &at, Duty::Check).await?;
    drop(one);
    Ok(Readers::Postgres(readers))
}

fn say<W: Write>(stream: &mut Stream<W>, line: &Line) -> Result<(), TransferError> {
    let written = serde_json::to_writer(&mut *stream, line).map_err(std::io::Error::from);
    written.and_then(|()| stream.write_all(b"\n")).map_err(file("write"))
}

async fn kept(db: &mut Connection<'_>) -> Result<Vec<Blob>, TransferError> {
    let sql = "SELECT name, bytes, digest FROM blobs WHERE state = 'kept' ORDER BY name";
    let rows = query(sql).fetch_all(db).await.map_err(failed("looking for blobs"))?;
    Ok(rows.iter().map(read_blob).collect::<Result<_, _>>()?)
}

async fn rows<W: Write>(
    db: &mut Connection<'_>,
    (table, columns): (&str, &[Column]),
    stream: &mut Stream<W>,
) -> Result<u64, TransferError> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let mut sql = db::Builder::new("SELECT ");
    sql.push(&names.join(", ")).push(" FROM ").push(table);
    let mut rows = sql.build().fetch(db).map_err(failed("reading a table"))?;
    let mut count = 0;
    while let Some(row) = rows.try_next().await.map_err(failed("reading a table"))? {
        let values = columns.iter().map(|column| read(&row, column)).collect::<Result<_, _>>()?;
        say(stream, &Line::Row(values))?;
        count += 1;
    }
    Ok(count)
}

async fn copy<W: Write>(blobs: &Blobs, blob: &Blob, stream: &mut Stream<W>) -> Result<(), TransferError> {
    say(stream, &Line::Blob { name: blob.name.clone(), bytes: blob.bytes })?;
    let mut at = 0;
    while at < blob.bytes {
        let piece = blobs.read(blob, at..at + PIECE_BYTES).await?;
        say(stream, &Line::Piece(STANDARD.encode(&piece)))?;
        at += piece.len() as u64;
    }
    Ok(())
}
