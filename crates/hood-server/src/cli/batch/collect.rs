//! Results, in the order of the input. Several are waited for at once; one that is ready before its
//! turn waits in memory, bounded by how far ahead is looked.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use hood_client::Client;
use hood_wire::api::{Evaluation, Verdict};
use tokio::sync::watch;

use super::super::failure::Failure;
use super::progress::Progress;

/// Requests that wait for ends at once: each is a stream of the server's, of which it has a bound.
const AHEAD: usize = 32;
/// No longer than any server lets a request wait.
const WAIT: Duration = Duration::from_secs(10);

/// Writes every result that is not there yet.
pub(super) async fn collect(
    client: &Client,
    path: &Path,
    all: usize,
    submitted: watch::Receiver<Vec<String>>,
    progress: &Progress,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(format!("cannot write {}", path.display())).because(error);
    let (mut file, mut done) = take_up(path).map_err(failed)?;
    let mut not_succeeded = 0;
    progress.done(done);
    let results = stream::iter(done..all).map(|index| result(client, index, submitted.clone()));
    let mut results = std::pin::pin!(results.buffered(AHEAD));
    while let Some(evaluation) = results.next().await {
        let evaluation = evaluation?;
        let line = serde_json::to_string(&evaluation).map_err(|error| failed(error.into()))?;
        file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.flush()).map_err(failed)?;
        done += 1;
        not_succeeded += usize::from(evaluation.verdict != Some(Verdict::Succeeded));
        progress.done(done);
        progress.failed(not_succeeded);
    }
    file.get_ref().sync_all().map_err(failed)
}

/// The result of one line, once it was submitted and has ended.
async fn result(
    client: &Client,
    index: usize,
    mut submitted: watch::Receiver<Vec<String>>,
) -> Result<Evaluation, Failure> {
    let id = match submitted.wait_for(|ids| ids.len() > index).await {
        Ok(ids) => ids[index].clone(),
        // The submitting half failed, and says why.
        Err(_) => std::future::pending().await,
    };
    loop {
        let evaluation = client.get(&id, Some(WAIT)).await?;
        if evaluation.state.is_terminal() {
            return Ok(evaluation);
        }
    }
}

/// The results file after its last whole line, and how many there are.
fn take_up(path: &Path) -> io::Result<(BufWriter<File>, usize)> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut written = Vec::new();
    file.read_to_end(&mut written)?;
    let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let done = written[..whole].iter().filter(|byte| **byte == b'\n').count();
    file.set_len(whole as u64)?;
    file.seek(SeekFrom::End(0))?;
    Ok((BufWriter::new(file), done))
}
