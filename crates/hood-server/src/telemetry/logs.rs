//! Where log lines go and how they look.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("the log filter `{filter}` is not understood")]
    Filter {
        filter: String,
        #[source]
        source: ParseError,
    },
    #[error("logging was set up twice")]
    Twice(#[source] TryInitError),
}

/// Sends log lines to stderr: stdout belongs to what a command answers. Colours only where a
/// terminal shows them and nobody asked for none.
pub fn init_logs(config: &Log, colour: bool) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.with_ansi(colour && std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .finish()
            .try_init(),
    }
    .map_err(TelemetryError::Twice)
}
