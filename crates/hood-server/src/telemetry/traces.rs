//! Spans of an evaluation's way, exported over OTLP. Where no endpoint is configured nothing is
//! recorded, and a context that a client sent is only passed on.
//!
//! A span's parent may be in another process and long gone: contexts travel as W3C `traceparent`, in
//! the stored request, in orders to dispatchers and in assignments to agents.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use hood_core::Timestamp;
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value, global};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

/// How long a stop waits for what is not exported yet.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// For one batch of spans.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(10);

/// Appended to the endpoint where it names no path, as OTLP over HTTP says.
const TRACES_PATH: &str = "/v1/traces";

const INSTRUMENTATION: &str = "fumehood";

/// Exports until it is dropped, and then what is left.
#[derive(Debug)]
pub struct Exporting(SdkTracerProvider);

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_PATIENCE) {
            tracing::warn!(error = %error, "the last spans were not exported");
        }
    }
}

/// Begins to export spans to `endpoint` as `role`; an empty one exports nothing.
pub fn export(endpoint: &str, role: &'static str) -> Result<Option<Exporting>, ExporterBuildError> {
    if endpoint.is_empty() {
        return Ok(None);
    }
    let mut exporter = SpanExporter::builder().with_http();
    if endpoint.starts_with("http://") {
        exporter = exporter.with_http_client(plain_client()?);
    }
    let exporter = exporter
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}{TRACES_PATH}", endpoint.trim_end_matches('/')))
        .build()?;
    let resource = Resource::builder()
        .with_service_name(format!("fumehood-{role}"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    global::set_tracer_provider(provider.clone());
    Ok(Some(Exporting(provider)))
}

/// For a collector that is spoken to without TLS. The exporter's own client wants certificates of
/// authorities for that too, and a container may have none.
fn plain_client() -> Result<reqwest::blocking::Client, ExporterBuildError> {
    let build = || reqwest::blocking::Client::builder().timeout(EXPORT_TIME_MAX).tls_certs_only([]).build();
    // A blocking client has a runtime of its own, which cannot be begun on a thread of another.
    let built = std::thread::spawn(build).join();
    let built = built.map_err(|_| ExporterBuildError::InternalFailure("its client panicked".to_owned()))?;
    built.map_err(|error| ExporterBuildError::InternalFailure(format!("it has no client: {error}")))
}

/// One span; it ends when this goes.
#[derive(Debug)]
pub struct Trace(Context);

/// What a span is in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Answers somebody's request.
    Server,
    /// Asks another part.
    Client,
    /// Takes up what was left for it.
    Consumer,
    Internal,
}

impl Trace {
    /// A span that begins now. A parent that is no `traceparent` begins a trace of its own.
    pub fn begin(name: impl Into<Cow<'static, str>>, part: Part, parent: Option<&str>) -> Self {
        Self::start(SpanBuilder::from_name(name), part, parent)
    }

    /// A span that began at `from`.
    pub fn begin_at(name: &'static str, part: Part, parent: Option<&str>, from: Timestamp) -> Self {
        Self::start(SpanBuilder::from_name(name).with_start_time(system_time(from)), part, parent)
    }

    fn start(builder: SpanBuilder, part: Part, parent: Option<&str>) -> Self {
        let parent = match parent.and_then(remote) {
            Some(remote) => Context::new().with_remote_span_context(remote),
            None => Context::new(),
        };
        let builder = builder.with_kind(match part {
            Part::Server => SpanKind::Server,
            Part::Client => SpanKind::Client,
            Part::Consumer => SpanKind::Consumer,
            Part::Internal => SpanKind::Internal,
        });
        let span = global::tracer(INSTRUMENTATION).build_with_context(builder, &parent);
        Self(parent.with_span(span))
    }

    pub fn note(&self, key: &'static str, value: impl Into<Value>) {
        self.0.span().set_attribute(KeyValue::new(key, value));
    }

    /// Says that we failed. What user code does is no failure of ours.
    pub fn fail(&self, why: impl Into<Cow<'static, str>>) {
        self.0.span().set_status(Status::error(why));
    }

    pub fn end_at(self, at: Timestamp) {
        self.0.span().end_with_timestamp(system_time(at));
    }

    /// The context for whoever is next. `None` where nothing is recorded: what came is passed on.
    pub fn traceparent(&self) -> Option<String> {
        let span = self.0.span();
        let context = span.span_context();
        // A span that nobody records is no link of the chain, though it repeats its parent's ids.
        if !context.is_valid() || context.is_remote() || !span.is_recording() {
            return None;
        }
        let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        Some(format!("00-{trace}-{span}-{flags:02x}"))
    }
}

/// The trace's id within a `traceparent`, for log lines.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    is_traceparent(traceparent).then(|| traceparent.get(3..35)).flatten()
}

/// W3C trace context, version 00: `00-TRACE-SPAN-FLAGS` in lowercase hexadecimal, ids not zero.
pub fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let lengths = [2, 32, 16, 2].map(|length| {
        parts.next().filter(|part| {
            part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    });
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    parts.next().is_none()
        && matches!(lengths, [Some("00"), Some(trace), Some(span), Some(_)] if !zero(trace) && !zero(span))
}

fn remote(traceparent: &str) -> Option<SpanContext> {
    if !is_traceparent(traceparent) {
        return None;
    }
    let trace = TraceId::from_hex(traceparent.get(3..35)?).ok()?;
    let span = SpanId::from_hex(traceparent.get(36..52)?).ok()?;
    let flags = u8::from_str_radix(traceparent.get(53..55)?, 16).ok()?;
    Some(SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::default()))
}

fn system_time(at: Timestamp) -> SystemTime {
    let micros = u64::try_from(at.as_micros()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::{Part, Trace, is_traceparent, trace_id};

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_or_refused() {
        assert!(is_traceparent(SENT));
        assert_eq!(trace_id(SENT), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        ] {
            assert!(!is_traceparent(wrong), "{wrong}");
        }
    }

    #[test]
    fn where_nothing_is_exported_no_context_is_made_up() {
        assert_eq!(Trace::begin("x", Part::Internal, Some(SENT)).traceparent(), None);
    }
}
