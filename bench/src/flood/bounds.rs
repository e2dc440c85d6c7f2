//! Past the named bounds: whoever is refused is told when to come again.

use hood_client::{Error, Retry};

use crate::cli::Common;
use crate::figures::Report;
use crate::server::{Server, python};

/// A queue and a rate that a flood passes at once.
const QUEUE_MAX: u32 = 200;
const RATE: u32 = 50;
/// Submissions to each.
const COUNT: u32 = 600;

pub(super) async fn run(common: &Common, report: &mut Report) -> anyhow::Result<()> {
    let queue = [format!("store.queue_max={QUEUE_MAX}")];
    past(common, &queue, (503, report)).await?;
    let rate = [format!("api.rate_per_second={RATE}"), format!("api.rate_burst={RATE}")];
    past(common, &rate, (429, report)).await
}

async fn past(
    common: &Common,
    settings: &[String],
    (status, report): (u16, &mut Report),
) -> anyhow::Result<()> {
    let server = Server::with(common, settings).await?;
    let client = server.client.with_retry(Retry::NONE);
    let (mut accepted, mut refused) = (0_u32, 0_u32);
    for number in 0..COUNT {
        let key = format!("bound-{number}");
        match client.submit_once(&python("print(1)\n"), &key, None).await {
            Ok(_) => accepted += 1,
            Err(Error::Refused { problem, retry_after: Some(_) }) if problem.status == status => refused += 1,
            Err(error) => report.fail(format!("{}: {error}", settings.join(" "))),
        }
    }
    let bound = settings.first().map_or("", String::as_str);
    report.figure(format!("accepted under {bound}"), f64::from(accepted), "evaluations");
    report.figure(format!("answered {status} with Retry-After"), f64::from(refused), "evaluations");
    if refused == 0 {
        report.fail(format!("{COUNT} submissions under {bound}, and none was refused"));
    }
    Ok(())
}
