use std::io::{self, BufRead, BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::{
    COUNTERS, Column, FORMAT, KEYS, Line, Moved, Progress, TABLES, TransferError, columns, file, unusable,
    write,
};
use crate::blobs::{Blob, BlobWriter, Blobs};
use crate::config::StoreConfig;
use crate::db::{self, Builder, Connection, query};
use crate::error::OpenError;
use crate::migrate::{self, Duty};
use crate::ops::blobs::read_blob;
use crate::store::prepare;
use crate::writer::failed;

/// Rows, and about as many bytes, in one statement.
const ROWS_MAX: usize = 200;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Tables in which an empty store has no row. One that was only migrated has a key, and counts.
const EMPTY: &[&str] = &["evaluations", "archived", "batches", "depth_shards", "blobs", "deliveries"];

/// Reads what [`super::export`] wrote into a store that is empty: all of it, in one transaction, or
/// nothing. Blobs are written before the commit; what a broken import left of them is written over by the
/// next one.
pub async fn import(
    config: &StoreConfig,
    from: impl Read,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Moved, TransferError> {
    let blobs = Blobs::open(&config.blobs).await.map_err(OpenError::from)?;
    let decoder = zstd::Decoder::new(from).map_err(file("read"))?;
    let mut lines = Lines { from: BufReader::new(decoder), text: String::new() };
    match &config.url {
        None => {
            let path = db::sqlite::file(&config.dir);
            let at = path.display().to_string();
            let connect = |source| OpenError::Connect { at: at.clone(), source };
            prepare(&config.dir, &path)
                .map_err(|source| OpenError::Directory { path: config.dir.clone(), source })?;
            let mut connection = db::sqlite::connect_writer(&path).await.map_err(connect)?;
            let db = &mut Connection::Sqlite(&mut connection);
            migrate::ensure(db, &at, Duty::Migrate).await?;
            whole(db, &blobs, (&mut lines, &mut progress)).await
        }
        Some(url) => {
            let at = url.to_string();
            let connect = |source| OpenError::Connect { at: at.clone(), source };
            let mut connection = db::postgres::connect_writer(url).await.map_err(connect)?;
            let db = &mut Connection::Postgres(&mut connection);
            migrate::ensure(db, &at, Duty::Check).await?;
            // Blobs are written while the transaction is open.
            db.command("SET idle_in_transaction_session_timeout = 0").await.map_err(failed("importing"))?;
            whole(db, &blobs, (&mut lines, &mut progress)).await
        }
    }
}

struct Lines<R> {
    from: BufReader<R>,
    text: String,
}

impl<R: Read> Lines<R> {
    fn next(&mut self) -> Result<Line, TransferError> {
        self.text.clear();
        let ends = || unusable("it ends too early: export it again");
        let read = self.from.read_line(&mut self.text).map_err(|error| match error.kind() {
            // Of a stream that was cut short within what is compressed together.
            io::ErrorKind::UnexpectedEof => ends(),
            _ => file("read")(error),
        });
        if read? == 0 {
            return Err(ends());
        }
        serde_json::from_str(&self.text).map_err(|error| unusable(error.to_string()))
    }

    /// The first one, which tells what the file is.
    fn begin(&mut self) -> Result<(), TransferError> {
        let no_export = |why: String| TransferError::NoExport { why };
        match self.next() {
            Ok(Line::Begin { format, schema, written_by }) => same_version((format, schema), &written_by),
            Ok(_) => Err(no_export("it does not begin as one".to_owned())),
            Err(TransferError::File { source, .. }) => Err(no_export(source.to_string())),
            Err(TransferError::Unusable { why }) => Err(no_export(why)),
            Err(error) => Err(error),
        }
    }
}

type From<'a, R, P> = (&'a mut Lines<R>, &'a mut P);

async fn whole<R: Read, P: FnMut(Progress<'_>)>(
    db: &mut Connection<'_>,
    blobs: &Blobs,
    from: From<'_, R, P>,
) -> Result<Moved, TransferError> {
    let begin = if db.is_shared() { db::postgres::BEGIN } else { db::sqlite::BEGIN };
    db.command(begin).await.map_err(failed("importing"))?;
    let moved = within(db, blobs, from).await;
    let end = if moved.is_ok() { "COMMIT" } else { "ROLLBACK" };
    db.command(end).await.map_err(failed("importing"))?;
    moved
}

async fn within<R: Read, P: FnMut(Progress<'_>)>(
    db: &mut Connection<'_>,
    blobs: &Blobs,
    (lines, progress): From<'_, R, P>,
) -> Result<Moved, TransferError> {
    lines.begin()?;
    must_be_empty(db).await?;
    let (mut moved, mut table, mut writing) = (Moved::default(), None::<Table>, None::<BlobWriter>);
    loop {
        let line = lines.next()?;
        if !matches!(line, Line::Row(_))
            && let Some(mut done) = table.take()
        {
            done.flush(db).await?;
            if done.name == KEYS {
                keep_keys(db).await?;
            }
            progress(Progress { what: done.name, count: done.count });
            moved.rows.insert(done.name.to_owned(), done.count);
        }
        if !matches!(line, Line::Piece(_))
            && let Some(done) = writing.take()
        {
            let blob = done.finish().await?;
            check(db, &blob).await?;
            (moved.blobs, moved.blob_bytes) = (moved.blobs + 1, moved.blob_bytes + blob.bytes);
        }
        match line {
            Line::Table { name, columns } => table = Some(Table::open(db, &name, columns).await?),
            Line::Row(values) => {
                let table = table.as_mut().ok_or_else(|| unusable("a row is in no table"))?;
                table.push(db, values).await?;
            }
            Line::Blob { name, .. } => writing = Some(blobs.write(name)),
            Line::Piece(text) => {
                let writer = writing.as_mut().ok_or_else(|| unusable("a piece is of no blob"))?;
                let bytes = STANDARD.decode(text).map_err(|error| unusable(error.to_string()))?;
                writer.write(&bytes).await?;
            }
            Line::End(said) if said == moved => {
                progress(Progress { what: "blobs", count: moved.blobs });
                return Ok(moved);
            }
            Line::End(_) => return Err(unusable("it lacks rows or blobs that it says it has")),
            Line::Begin { .. } => return Err(unusable("it begins twice")),
        }
    }
}

fn same_version((format, schema): (u32, i64), written_by: &str) -> Result<(), TransferError> {
    let known = migrate::known();
    if (format, schema) != (FORMAT, known) {
        let why = format!(
            "it was written by {written_by} with schema {schema}, and this program has {known}: export and import \
             with the same version"
        );
        return Err(unusable(why));
    }
    Ok(())
}

async fn must_be_empty(db: &mut Connection<'_>) -> Result<(), TransferError> {
    for table in EMPTY {
        let mut sql = Builder::new("SELECT 1 FROM ");
        sql.push(table).push(" LIMIT 1");
        if sql.build().fetch_optional(db).await.map_err(failed("importing"))?.is_some() {
            return Err(TransferError::NotEmpty { table });
        }
    }
    Ok(())
}

/// The first start over a SQLite finds no file with a key in its directory, takes the key `default` for lost,
/// and puts another in its place. One that came with an import is not that one.
async fn keep_keys(db: &mut Connection<'_>) -> Result<(), TransferError> {
    const SQL: &str =
        "UPDATE api_keys SET name = 'imported ' || lower(substr(hex(hash), 1, 8)) WHERE name = 'default'";
    if db.is_shared() {
        return Ok(());
    }
    db.command(SQL).await.map_err(failed("importing")).map_err(Into::into)
}

/// The bytes are those that the database was told of.
async fn check(db: &mut Connection<'_>, blob: &Blob) -> Result<(), TransferError> {
    let row =
        query("SELECT name, bytes, digest FROM blobs WHERE name = $1").bind(&blob.name).fetch_optional(db);
    let known = row.await.map_err(failed("importing"))?.as_ref().map(read_blob).transpose()?;
    if known.as_ref() == Some(blob) { Ok(()) } else { Err(unusable(format!("{} is damaged", blob.name))) }
}

struct Table {
    name: &'static str,
    columns: Vec<Column>,
    waiting: Vec<Vec<Json>>,
    bytes: usize,
    count: u64,
}

impl Table {
    async fn open(db: &mut Connection<'_>, name: &str, has: Vec<Column>) -> Result<Self, TransferError> {
        let known = TABLES.iter().find(|known| **known == name);
        let name: &'static str = known.ok_or_else(|| unusable(format!("there is no table {name}")))?;
        if columns(db, name).await? != has {
            return Err(unusable(format!("{name} has other columns here")));
        }
        Ok(Self { name, columns: has, waiting: Vec::new(), bytes: 0, count: 0 })
    }

    async fn push(&mut self, db: &mut Connection<'_>, values: Vec<Json>) -> Result<(), TransferError> {
        if values.len() != self.columns.len() {
            return Err(unusable(format!("a row of {} has other columns", self.name)));
        }
        self.bytes += values.iter().filter_map(Json::as_str).map(str::len).sum::<usize>();
        self.waiting.push(values);
        self.count += 1;
        if self.waiting.len() == ROWS_MAX || self.bytes >= BYTES_MAX { self.flush(db).await } else { Ok(()) }
    }

    async fn flush(&mut self, db: &mut Connection<'_>) -> Result<(), TransferError> {
        self.bytes = 0;
        if self.waiting.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let mut sql = Builder::new("INSERT INTO ");
        sql.push(self.name).push(" (").push(&names.join(", ")).push(") VALUES ");
        for (i, values) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            sql.push(if i == 0 { "(" } else { ", (" });
            for (j, (value, column)) in values.into_iter().zip(&self.columns).enumerate() {
                sql.push(if j == 0 { "" } else { ", " }).push_bind(write(value, column.kind)?);
            }
            sql.push(")");
        }
        sql.push(self.conflict());
        sql.build().execute(db).await.map_err(failed("importing")).map(drop).map_err(Into::into)
    }

    /// What an empty store may have already.
    fn conflict(&self) -> &'static str {
        match self.name {
            // Openings number leases: later ones are to be later than those that are moved.
            COUNTERS => {
                " ON CONFLICT (name) DO UPDATE SET value = CASE WHEN excluded.value > counters.value \
                 THEN excluded.value ELSE counters.value END"
            }
            KEYS => " ON CONFLICT (hash) DO NOTHING",
            _ => "",
        }
    }
}
