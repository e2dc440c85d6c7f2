//! What a fresh sandbox costs over the bare interpreter: both in turn, in one run. From the order to
//! the last word, with nothing of the server above.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hood_core::plan::{Demand, ExecutorClass, PolicyMode, plan};
use hood_core::program::Source;
use hood_core::{EvaluationId, Limits, Timestamp};
use hood_dispatch::environment::{self, Library};
use hood_dispatch::local::{Local, LocalConfig};
use hood_dispatch::{AttemptKey, Conduct, Dispatch, Order, ReportBody};

const PAIRS: u32 = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let library = Library::open(&dir.path().join("images"), environment::builtin()?)?;
    library.ensure("minimal", &|_| ())?;
    let config = LocalConfig {
        state_dir: dir.path().join("sandbox"),
        ids: None,
        cgroup_parent: None,
        places: 4,
        stock: 4,
        memory_bytes_max: 8 << 30,
    };
    let (local, _) = Local::start(config, Arc::new(library))?;
    let main = dir.path().join("main.py");
    std::fs::write(&main, "print(1)")?;
    // `python3` may be a shim of a version manager, which costs more than the interpreter.
    let real =
        Command::new("python3").args(["-I", "-c", "import sys; print(sys._base_executable)"]).output()?;
    let real = String::from_utf8(real.stdout)?.trim().to_owned();
    let (mut bare, mut fresh, mut program) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..PAIRS {
        let began = Instant::now();
        Command::new(&real).arg("-I").arg(&main).stdin(Stdio::null()).stdout(Stdio::piped()).output()?;
        bare.push(began.elapsed());
        let (whole, inside) = one(&local, n).await?;
        fresh.push(whole);
        program.push(inside);
        // The stock is refilled between two evaluations, as it is where they come one at a time.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    for (what, times) in
        [("bare python3 -I", &mut bare), ("fresh sandbox", &mut fresh), ("its program", &mut program)]
    {
        times.sort();
        println!("{what:16} median {:?}  p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    }
    local.shut_down(Duration::from_secs(10)).await;
    Ok(())
}

async fn one(local: &Local, n: u32) -> Result<(Duration, Duration), Box<dyn std::error::Error>> {
    let catalogue = local.capacity();
    let demand = Demand { limits: Limits::DEFAULT, build: None, class: ExecutorClass::Cpu };
    let facts = &catalogue.environment("minimal").ok_or("no environment")?.facts;
    let assignment =
        plan(&demand, facts, &catalogue.offers, PolicyMode::Strict).map_err(|refusal| refusal.reason)?;
    let source = Source { code: Some("print(1)".to_owned()), ..Source::default() };
    let order = Order {
        key: AttemptKey {
            evaluation: EvaluationId::new(Timestamp::from_micros(n.into()), [0; 10]),
            attempt: n,
        },
        token: 1,
        assignment,
        program: source
            .lay_out(&hood_core::program::Start::default(), &Limits::DEFAULT)
            .map_err(|problems| format!("{problems:?}"))?,
        conduct: Conduct { grace: Duration::from_secs(1), fail_on_output_limit: false },
        traceparent: None,
    };
    let began = Instant::now();
    let mut link = local.execute(order).await?;
    while let Some(report) = link.next().await {
        link.acknowledge(report.number);
        if let ReportBody::Ended(seen) = report.body {
            return Ok((began.elapsed(), Duration::from_micros(seen.usage.wall_us.unwrap_or(0))));
        }
    }
    Err("the place went silent".into())
}
