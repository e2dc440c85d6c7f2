//! More than can run at once: how fast it is accepted, durably, how fast it ends, and what it costs
//! the server in memory.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use futures::future::try_join_all;
use hood_client::Client;
use hood_wire::api::BatchSubmission;

use crate::cli::Common;
use crate::figures::Report;
use crate::host::Host;
use crate::python::Python;
use crate::server::{Server, python};

/// Between two looks at the queue.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Evaluations in all.
    #[arg(long, default_value_t = 2_000)]
    count: u32,
    /// Evaluations in one batch.
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// Clients that submit at once.
    #[arg(long, default_value_t = 4)]
    clients: u32,
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let host_python = Python::find()?;
    let server = Server::start(common).await?;
    let mut report = Report::new("flood", Host::look(server.data_dir(), &host_python));
    report.setting("evaluations", options.count);
    report.setting("batch", options.batch);
    report.setting("clients", options.clients);
    let (before_mib, _) = server.memory_mib().unwrap_or((f64::NAN, f64::NAN));

    let started = Instant::now();
    let batches = submit(&server.client, options).await?;
    let accepted = started.elapsed();
    let mut total = 0;
    for id in &batches {
        total += server.client.batch(id).await?.total;
    }
    while !server.client.queue().await?.states.values().all(|&count| count == 0) {
        tokio::time::sleep(POLL).await;
    }
    let ended = started.elapsed();

    let mut succeeded = 0;
    for id in &batches {
        let batch = server.client.batch(id).await?;
        succeeded += batch.counts.get("succeeded").copied().unwrap_or(0);
    }
    if total != u64::from(options.count) || succeeded != total {
        report.fail(format!("{} submitted, {total} kept, {succeeded} succeeded", options.count));
    }
    let count = f64::from(options.count);
    report.figure("accepted, durably", count / accepted.as_secs_f64(), "evaluations/s");
    report.figure("ended, from the first submission on", count / ended.as_secs_f64(), "evaluations/s");
    if let Some((after_mib, peak_mib)) = server.memory_mib() {
        report.figure("server's memory before", before_mib, "MiB");
        report.figure("server's memory after", after_mib, "MiB");
        report.figure("server's memory, peak", peak_mib, "MiB");
    }
    Ok(report)
}

/// Submits everything in batches, from several clients; answers the batches' ids.
async fn submit(client: &Client, options: &Options) -> anyhow::Result<Vec<String>> {
    let Options { count, batch, clients } = *options;
    if batch == 0 || clients == 0 {
        bail!("--batch and --clients are at least 1");
    }
    let sizes: Vec<u32> = (0..count.div_ceil(batch)).map(|i| batch.min(count - i * batch)).collect();
    let each = (0..clients as usize).map(|number| {
        let mine = sizes.iter().enumerate().skip(number).step_by(clients as usize);
        submit_some(client, mine.map(|(index, &size)| (index, size as usize)))
    });
    Ok(try_join_all(each).await?.into_iter().flatten().collect())
}

/// One client's batches, one after another.
async fn submit_some(
    client: &Client,
    batches: impl Iterator<Item = (usize, usize)>,
) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for (index, size) in batches {
        let batch = BatchSubmission { evaluations: vec![python("print(1)\n"); size] };
        ids.push(client.submit_batch(&batch, &format!("flood-{index}")).await?.id);
    }
    Ok(ids)
}
