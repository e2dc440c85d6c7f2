//! More than can run at once: how fast it is accepted, durably, how fast it ends, what it costs the
//! server in memory, how other calls fare meanwhile, and what is answered past the bounds.

mod bounds;
mod probe;

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use futures::future::try_join_all;
use hood_client::Client;
use hood_wire::api::BatchSubmission;

use crate::cli::Common;
use crate::figures::Report;
use crate::python::Python;
use crate::server::{Server, python};
use probe::Probe;

/// Between two looks at the queue.
const POLL: Duration = Duration::from_millis(50);
/// Evaluations that show how fast the sandbox alone is.
const SANDBOX_COUNT: u32 = 200;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Evaluations in all.
    #[arg(long, default_value_t = 2_000)]
    count: u32,
    /// Evaluations in one batch; 1 submits each by itself.
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// Clients that submit at once.
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// Seconds for which the queue is watched while it drains; 0 watches until it is empty.
    #[arg(long, default_value_t = 0)]
    drain_s: u64,
    /// Fail if the server ever needs more memory, MiB.
    #[arg(long)]
    memory_at_most_mib: Option<f64>,
    /// Fail if the 99th percentile of other calls while draining is above this.
    #[arg(long)]
    calls_at_most_ms: Option<f64>,
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let host_python = Python::find()?;
    let server = Server::start(common).await?;
    let mut report = Report::new("flood", server.host(&host_python).await?);
    report.setting("evaluations", options.count);
    report.setting("batch", options.batch);
    report.setting("clients", options.clients);
    let (before_mib, _) = server.memory_mib().unwrap_or((f64::NAN, f64::NAN));
    let alone = sandbox_alone(&server).await?;

    let accepting = Probe::start(&server.client);
    let started = Instant::now();
    let keys = submit(&server.client, options).await?;
    let accepted = started.elapsed();
    report.spread("other calls while submitting", &accepting.end().await?);

    let draining = Probe::start(&server.client);
    let drained = drain(&server, options).await?;
    let calls = draining.end().await?;
    report.figure("accepted, durably", f64::from(options.count) / accepted.as_secs_f64(), "evaluations/s");
    report.figure("ended, while draining", drained.rate, "evaluations/s");
    report.figure("ended by the sandbox with an empty queue", alone, "evaluations/s");
    report.spread("other calls while draining", &calls);
    if options.calls_at_most_ms.is_some_and(|most| calls.percentile(99) > most) {
        report.fail("other calls took too long while draining");
    }
    memory(&server, before_mib, (options, &mut report));
    if drained.empty {
        whole(&server, &keys, (options, &mut report)).await?;
    }
    bounds::run(common, &mut report).await?;
    Ok(report)
}

fn memory(server: &Server, before_mib: f64, (options, report): (&Options, &mut Report)) {
    let Some((after_mib, peak_mib)) = server.memory_mib() else { return };
    report.figure("server's memory before", before_mib, "MiB");
    report.figure("server's memory after", after_mib, "MiB");
    report.figure("server's memory, peak", peak_mib, "MiB");
    if options.memory_at_most_mib.is_some_and(|most| peak_mib > most) {
        report.fail("the server needed too much memory");
    }
}

/// How many a second end where nothing waits but the next few: what the sandbox can do.
async fn sandbox_alone(server: &Server) -> anyhow::Result<f64> {
    let started = Instant::now();
    let each = (0..SANDBOX_COUNT / 8).map(|_| async {
        for _ in 0..8 {
            server.run(&python("print(1)\n")).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(each).await?;
    Ok(f64::from(SANDBOX_COUNT / 8 * 8) / started.elapsed().as_secs_f64())
}

struct Drained {
    rate: f64,
    empty: bool,
}

async fn drain(server: &Server, options: &Options) -> anyhow::Result<Drained> {
    let started = Instant::now();
    let waiting = |states: &std::collections::BTreeMap<String, u64>| states.values().sum::<u64>();
    let first = waiting(&server.client.queue().await?.states);
    loop {
        let left = waiting(&server.client.queue().await?.states);
        let took = started.elapsed();
        if left == 0 || (options.drain_s > 0 && took >= Duration::from_secs(options.drain_s)) {
            let ended = u32::try_from(first.saturating_sub(left))?;
            return Ok(Drained { rate: f64::from(ended) / took.as_secs_f64(), empty: left == 0 });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Everything that was submitted is there, and succeeded.
async fn whole(
    server: &Server,
    batches: &[String],
    (options, report): (&Options, &mut Report),
) -> anyhow::Result<()> {
    let (mut total, mut succeeded) = (0, 0);
    for id in batches {
        let batch = server.client.batch(id).await?;
        total += batch.total;
        succeeded += batch.counts.get("succeeded").copied().unwrap_or(0);
    }
    // What was submitted by itself is in no batch.
    let count = if options.batch == 1 { 0 } else { u64::from(options.count) };
    if total != count || succeeded != total {
        report.fail(format!("{count} submitted, {total} kept, {succeeded} succeeded"));
    }
    Ok(())
}

/// Submits everything, from several clients; answers the batches' ids.
async fn submit(client: &Client, options: &Options) -> anyhow::Result<Vec<String>> {
    let Options { count, batch, clients, .. } = *options;
    if batch == 0 || clients == 0 {
        bail!("--batch and --clients are at least 1");
    }
    let sizes: Vec<u32> = (0..count.div_ceil(batch)).map(|i| batch.min(count - i * batch)).collect();
    let each = (0..clients as usize).map(|number| {
        let mine = sizes.iter().enumerate().skip(number).step_by(clients as usize);
        submit_some(client, mine.map(|(index, &size)| (index, size as usize)), batch == 1)
    });
    Ok(try_join_all(each).await?.into_iter().flatten().collect())
}

/// One client's batches, one after another.
async fn submit_some(
    client: &Client,
    batches: impl Iterator<Item = (usize, usize)>,
    singly: bool,
) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for (index, size) in batches {
        let key = format!("flood-{index}");
        if singly {
            client.submit_once(&python("print(1)\n"), &key, None).await?;
        } else {
            let batch = BatchSubmission { evaluations: vec![python("print(1)\n"); size] };
            ids.push(client.submit_batch(&batch, &key).await?.id);
        }
    }
    Ok(ids)
}
