//! Logs and metrics. Both carry ids, states, durations and counts; never a body, an output, an
//! environment variable or a token.

mod logs;
pub mod metrics;
mod traced;
pub mod traces;

pub use logs::{TelemetryError, init_logs};
pub use metrics::Metrics;
pub use traced::Traced;
