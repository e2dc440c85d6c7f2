//! Programs that wait: how many can be in flight at once on one machine, and what each costs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use hood_wire::api::{BatchSubmission, LimitsRequest, Submission, Verdict};

use crate::cli::Common;
use crate::figures::Report;
use crate::host::field;
use crate::python::Python;
use crate::server::{Server, python};

const POLL: Duration = Duration::from_millis(50);
/// Evaluations in one batch.
const BATCH: u32 = 500;
/// Cancels that are under way at once.
const CANCELS: usize = 32;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Evaluations that are to be in flight at once.
    #[arg(long, default_value_t = 1_000)]
    count: u32,
    /// Seconds within which they must all be.
    #[arg(long, default_value_t = 300)]
    patience_s: u32,
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let Options { count, patience_s } = *options;
    let host_python = Python::find()?;
    let places = common.places.unwrap_or(count);
    let server = Server::start(&Common { places: Some(places), ..common.clone() }).await?;
    let mut report = Report::new("crowd", server.host(&host_python).await?);
    report.setting("evaluations", count);
    report.setting("places", places);
    let free_before = available_mib()?;

    let started = Instant::now();
    let patience = Duration::from_secs(patience_s.into());
    let mut ids = Vec::new();
    for first in (0..count).step_by(BATCH as usize) {
        let size = BATCH.min(count - first) as usize;
        let batch = BatchSubmission { evaluations: vec![sleeper(patience * 2); size] };
        ids.extend(server.client.submit_batch(&batch, &server.fresh_key()).await?.evaluations);
    }
    let mut most = 0;
    while most < u64::from(count) {
        if started.elapsed() > patience {
            report.fail(format!("after {patience_s} s no more than {most} were running at once"));
            break;
        }
        tokio::time::sleep(POLL).await;
        let running = server.client.queue().await?.states.get("running").copied().unwrap_or(0);
        most = most.max(running);
    }
    let reached = started.elapsed();
    let cost_mib = (free_before - available_mib()?) / f64::from(count);
    report.figure("running at once", f64::from(u32::try_from(most)?), "evaluations");
    report.figure("until all of them ran", reached.as_secs_f64(), "s");
    report.figure("memory of the machine for each", cost_mib, "MiB");
    if let Some((now_mib, _)) = server.memory_mib() {
        report.figure("server's memory meanwhile", now_mib, "MiB");
    }

    let ended = Instant::now();
    let cancels = ids.iter().map(|id| async { server.client.cancel(id, Some(Duration::ZERO)).await });
    let _: Vec<_> = futures::stream::iter(cancels).buffer_unordered(CANCELS).try_collect().await?;
    for id in &ids {
        let end = server.end(id).await?;
        if end.verdict != Some(Verdict::Cancelled) {
            bail!("{id} was cancelled and ended as {:?}", end.verdict);
        }
    }
    report.figure("until all of them were cancelled", ended.elapsed().as_secs_f64(), "s");
    Ok(report)
}

fn sleeper(time: Duration) -> Submission {
    let limits = LimitsRequest { wall_ms: u64::try_from(time.as_millis()).ok(), ..LimitsRequest::default() };
    Submission { limits, ..python(&format!("import time\ntime.sleep({})\n", time.as_secs())) }
}

/// What the kernel could give to more programs.
fn available_mib() -> anyhow::Result<f64> {
    let text = field("/proc/meminfo", "MemAvailable").context("read /proc/meminfo")?;
    let kib: f64 = text.trim_end_matches(" kB").parse().context("read /proc/meminfo")?;
    Ok(kib / 1024.0)
}
