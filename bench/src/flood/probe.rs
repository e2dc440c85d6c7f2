//! A client that does nothing special, and how long it waits for its answers meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hood_client::{Client, ListQuery};
use tokio::task::JoinHandle;

use crate::figures::Samples;

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(20);
/// Items of a page that is listed.
const PAGE: u32 = 20;

#[derive(Debug)]
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    calls: JoinHandle<anyhow::Result<Samples>>,
}

impl Probe {
    pub(crate) fn start(client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let calls = tokio::spawn(call(client.clone(), Arc::clone(&stop)));
        Self { stop, calls }
    }

    pub(crate) async fn end(self) -> anyhow::Result<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        self.calls.await.context("the calls of a probe")?
    }
}

/// What somebody who watches would ask: the queue, a page of the list, one of its items, its events.
async fn call(client: Client, stop: Arc<AtomicBool>) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let query = ListQuery { limit: Some(PAGE), ..ListQuery::default() };
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        client.queue().await?;
        samples.add(began.elapsed());
        let began = Instant::now();
        let page = client.list(&query).await?;
        samples.add(began.elapsed());
        if let Some(item) = page.items.last() {
            let began = Instant::now();
            client.get(&item.id, None).await?;
            samples.add(began.elapsed());
            let began = Instant::now();
            client.events(&item.id, None).await?;
            samples.add(began.elapsed());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(samples)
}
