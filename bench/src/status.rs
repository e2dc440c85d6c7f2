//! From a transition to its event at a client, through two replicas of the API: what is submitted to one
//! is followed at the other. One machine, one clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;
use futures::future::try_join_all;
use hood_client::Client;
use hood_wire::api::Event;

use crate::cli::Common;
use crate::figures::{Report, Samples};
use crate::fleet::Fleet;
use crate::host::Host;
use crate::python::Python;
use crate::server::python;

/// So long it runs that whoever follows is there before it ends.
const PROGRAM: &str = "import time; time.sleep(0.2)";

/// By then every process knows that Redis is gone.
const OUTAGE_NOTICED: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Evaluations that are followed with Redis there.
    #[arg(long, default_value_t = 300)]
    evaluations: u32,
    /// And while it is away.
    #[arg(long, default_value_t = 60)]
    without_redis: u32,
    /// Followed at the same time.
    #[arg(long, default_value_t = 2)]
    clients: u32,
    /// Fail if the 99th percentile with Redis is above this.
    #[arg(long)]
    at_most_ms: Option<f64>,
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let Options { evaluations, without_redis, clients, at_most_ms } = *options;
    let host_python = Python::find()?;
    let fleet = Fleet::start(common).await?;
    let host = Host::look(fleet.dir(), &host_python, fleet.durability()?);
    let mut report = Report::new("status", host);
    report.setting("roles", "2 api, 1 worker, 1 dispatcher, apart");
    report.setting("evaluations", format!("{evaluations}, then {without_redis} without Redis"));
    report.setting("followed at the same time", clients);
    let with = follow_all(&fleet, evaluations, clients).await?;
    report.spread("transition → the client's event", &with);
    report.figure("transition → the client's event, most", with.percentile(100), "ms");
    fleet.redis.kill9().context("kill Redis")?;
    tokio::time::sleep(OUTAGE_NOTICED).await;
    let without = follow_all(&fleet, without_redis, clients).await?;
    report.spread("the same without Redis", &without);
    report.figure("the same without Redis, most", without.percentile(100), "ms");
    report.note(format!("{} and {} events", with.len(), without.len()));
    if let Some(most) = at_most_ms
        && with.percentile(99) > most
    {
        report.fail(format!("the 99th percentile is above {most} ms"));
    }
    Ok(report)
}

async fn follow_all(fleet: &Fleet, evaluations: u32, clients: u32) -> anyhow::Result<Samples> {
    let [here, there] = &fleet.replicas;
    let each = evaluations.div_ceil(clients.max(1));
    let following = (0..clients.max(1)).map(|_| async move {
        let mut samples = Samples::default();
        for _ in 0..each {
            follow(here, there, &mut samples).await?;
        }
        anyhow::Ok(samples)
    });
    let mut all = Samples::default();
    try_join_all(following).await?.into_iter().for_each(|samples| all.append(samples));
    Ok(all)
}

async fn follow(here: &Client, there: &Client, samples: &mut Samples) -> anyhow::Result<()> {
    let id = here.submit(&python(PROGRAM), None).await?.evaluation.id;
    let mut events = there.follow_events(&id, 0);
    // What was before the connection says nothing of how quick it is.
    let mut connected = None;
    while let Some(event) = events.next().await? {
        let received = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let happened = at(&event)?;
        if *connected.get_or_insert(received) <= happened {
            samples.add(received.saturating_sub(happened));
        }
    }
    if connected.is_none() {
        bail!("{id} had no event");
    }
    Ok(())
}

fn at(event: &Event) -> anyhow::Result<Duration> {
    let at: jiff::Timestamp = event.at.parse().with_context(|| format!("read `{}`", event.at))?;
    Ok(Duration::try_from(at.duration_since(jiff::Timestamp::UNIX_EPOCH))?)
}
