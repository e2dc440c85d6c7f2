use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

/// Time, chance and tasks, as capabilities.
pub trait World: Send + Sync + fmt::Debug {
    /// Since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Ends when that much time has passed since the call.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// From 0 up to 1.
    fn unit(&self) -> f64;

    fn spawn(&self, task: BoxFuture<'static, ()>);
}
