use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hood_dispatch::remote::World;

/// The machine's time and chance, and the runtime that it is used within.
#[derive(Clone, Copy, Debug)]
pub struct RealWorld {
    began: Instant,
}

impl Default for RealWorld {
    fn default() -> Self {
        Self { began: Instant::now() }
    }
}

impl World for RealWorld {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }

    fn unit(&self) -> f64 {
        rand::random()
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
}
