//! Live output: a program prints the time, and the client compares it with the time of receipt. One
//! machine, one clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;
use hood_client::Stream;
use hood_wire::api::EventType;

use crate::cli::Common;
use crate::figures::{Report, Samples};
use crate::python::Python;
use crate::server::{Server, python};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Lines that are printed and followed.
    #[arg(long, default_value_t = 300)]
    lines: u32,
    /// Pause between two lines.
    #[arg(long, default_value_t = 20)]
    pause_ms: u32,
    /// Fail if the median is above this.
    #[arg(long)]
    at_most_ms: Option<f64>,
}

pub(crate) async fn run(options: &Options, common: &Common) -> anyhow::Result<Report> {
    let Options { lines, pause_ms, at_most_ms } = *options;
    let host_python = Python::find()?;
    let server = Server::start(common).await?;
    let mut report = Report::new("live", server.host(&host_python).await?);
    report.setting("lines", lines);
    report.setting("pause", format!("{pause_ms} ms"));
    let samples = follow(&server, &program(lines, pause_ms), lines).await?;
    report.spread("write() → the client has it", &samples);
    report.figure("write() → the client has it, most", samples.percentile(100), "ms");
    if let Some(most) = at_most_ms
        && samples.median() > most
    {
        report.fail(format!("the median is above {most} ms"));
    }
    Ok(report)
}

fn program(lines: u32, pause_ms: u32) -> String {
    format!(
        "import os, time\n\
         time.sleep(0.5)\n\
         for _ in range({lines}):\n\
         \x20   os.write(1, b'%d\\n' % time.time_ns())\n\
         \x20   time.sleep({pause_ms} / 1000)\n"
    )
}

async fn follow(server: &Server, code: &str, lines: u32) -> anyhow::Result<Samples> {
    let id = server.client.submit(&python(code), None).await?.evaluation.id;
    let mut events = server.client.follow_events(&id, 0);
    let attempt = loop {
        match events.next().await? {
            Some(event) if event.kind == EventType::Started => break event.attempt.unwrap_or(1),
            Some(_) => {}
            None => bail!("{id} ended before it started"),
        }
    };
    let mut output = server.client.follow_output(&id, Stream::Stdout, attempt, 0);
    let mut samples = Samples::default();
    let mut partial = Vec::new();
    let mut received = 0;
    while let Some(bytes) = output.next().await? {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        partial.extend_from_slice(&bytes);
        while let Some(end) = partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            let written: u64 =
                std::str::from_utf8(&line)?.trim().parse().context("read a line of the program")?;
            samples.add(now.saturating_sub(Duration::from_nanos(written)));
            received += 1;
        }
    }
    if received != lines {
        bail!("{received} of {lines} lines arrived");
    }
    Ok(samples)
}
