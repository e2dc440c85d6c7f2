//! Grey box: the role `serve` with a Redis that comes and goes.

use std::io::Write as _;
use std::time::Duration;

use hood_testkit::Redis;

use crate::support::server::Server;

/// Health is looked at every other second at most.
const POLL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `/readyz` says so as a whole, and of the bus.
async fn until_it_is(server: &Server, wanted: &str) {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let (status, ready) = server.request(reqwest::Method::GET, "/readyz", None).await;
            let checks = ready["checks"].as_array().expect("checks");
            let bus = checks.iter().find(|check| check["name"] == "bus").expect("a check of the bus");
            if status == 200 && bus["status"] == wanted && ready["status"] == wanted {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("it does not become {wanted}"));
}

#[tokio::test]
async fn without_the_bus_a_server_serves_and_says_that_it_is_degraded() {
    if let Some(why) = hood_testkit::missing() {
        let _ = writeln!(std::io::stderr(), "\nSKIPPED: redis: {why}");
        return;
    }
    let redis = Redis::start().expect("starts");
    redis.kill9().expect("dies");
    let server = Server::with(|config| config.bus.url = redis.url().into()).await;
    until_it_is(&server, "degraded").await;
    assert_eq!(server.python("print(1)").await["verdict"], "succeeded", "it serves all the same");
    redis.restart().expect("comes back");
    until_it_is(&server, "ok").await;
    assert_eq!(server.python("print(1)").await["verdict"], "succeeded");
    server.stop().await;
}
