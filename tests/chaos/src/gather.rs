//! Reads the complete history of a run through the public API.

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use hood_client::{ListQuery, Stream};

use crate::history::{History, Output};
use crate::load::{Entry, Load};
use crate::work::RUN_LABEL;

/// Evaluations that are read at once.
const AT_ONCE: usize = 8;
const PAGE: u32 = 500;

pub(crate) async fn histories(load: &Load) -> anyhow::Result<Vec<History>> {
    let reads = load.entries().into_iter().map(|entry| history(load, entry));
    futures::stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await
}

async fn history(load: &Load, entry: Entry) -> anyhow::Result<History> {
    let Entry { work, id, cancel_asked, followed } = entry;
    let id = id.as_str();
    let evaluation = load.end(id).await?;
    let mut events = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let from = cursor.as_deref();
        let page = load.asked(work.number, |client| async move { client.events(id, from).await }).await?;
        events.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut outputs = Vec::new();
    for attempt in &evaluation.attempts {
        let attempt = attempt.number;
        let stdout = bytes(load, id, (Stream::Stdout, attempt)).await?;
        let stderr = bytes(load, id, (Stream::Stderr, attempt)).await?;
        outputs.push(Output { attempt, stdout, stderr });
    }
    Ok(History { work, cancel_asked, evaluation, events, outputs, followed })
}

async fn bytes(load: &Load, id: &str, (stream, attempt): (Stream, u32)) -> anyhow::Result<Vec<u8>> {
    load.asked(u64::from(attempt), |client| async move {
        let mut output = client.follow_output(id, stream, attempt, 0);
        let mut bytes = Vec::new();
        while let Some(piece) = output.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    })
    .await
    .with_context(|| format!("read {} of {id}", stream.as_str()))
}

/// Every id that the API lists as this run's.
pub(crate) async fn listed(load: &Load) -> anyhow::Result<Vec<String>> {
    let labels = vec![(RUN_LABEL.to_owned(), load.run().to_owned())];
    let mut query = ListQuery { labels, limit: Some(PAGE), ..ListQuery::default() };
    let mut ids = Vec::new();
    loop {
        let asked = &query;
        let page = load.asked(0, |client| async move { client.list(asked).await }).await?;
        ids.extend(page.items.into_iter().map(|item| item.id));
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return Ok(ids),
        }
    }
}
