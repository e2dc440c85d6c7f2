//! How much one API key may ask for: requests per second, and long answers open at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::config::{ApiLimits, RateLimits};
use crate::api::error::{ApiError, ErrorCode};
use crate::telemetry::metrics;

/// What a key has used of its allowance.
#[derive(Debug)]
pub(crate) struct Usage {
    bucket: Mutex<Bucket>,
    streams: Arc<Semaphore>,
}

impl Usage {
    pub(crate) fn new(limits: &ApiLimits, now: Instant) -> Self {
        Self {
            bucket: Mutex::new(Bucket { tokens: f64::from(limits.rate.burst), at: now }),
            streams: Arc::new(Semaphore::new(limits.stream.streams_max)),
        }
    }

    pub(crate) fn request(&self, limits: &RateLimits, now: Instant) -> Result<(), ApiError> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(limits, now).map_err(|after| {
            let rate = limits.requests_per_second;
            ApiError::new(ErrorCode::RateLimited, format!("this key may make {rate} requests per second"))
                .retry_after(after)
        })
    }

    pub(crate) fn long_answer(&self, kind: LongAnswer) -> Result<StreamPermit, ApiError> {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| {
            let kind = kind.as_str();
            ApiError::new(
                ErrorCode::TooManyStreams,
                format!("this key has as many long answers open as it may (this one is `{kind}`)"),
            )
            .retry_soon()
        })?;
        ::metrics::gauge!(metrics::HTTP_STREAMS, "kind" => kind.as_str()).increment(1.0);
        Ok(StreamPermit { kind, _permit: permit })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongAnswer {
    Events,
    Output,
    Wait,
}

impl LongAnswer {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Output => "output",
            Self::Wait => "wait",
        }
    }
}

/// Held as long as a long answer is open.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    kind: LongAnswer,
    _permit: OwnedSemaphorePermit,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        ::metrics::gauge!(metrics::HTTP_STREAMS, "kind" => self.kind.as_str()).decrement(1.0);
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Takes one token, or says when there will be one.
    fn take(&mut self, limits: &RateLimits, now: Instant) -> Result<(), Duration> {
        if limits.requests_per_second == 0 {
            return Ok(());
        }
        let rate = f64::from(limits.requests_per_second);
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.tokens = (self.tokens + gained).min(f64::from(limits.burst.max(1)));
        self.at = now;
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / rate));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_zero_is_none() {
        let limits = RateLimits { requests_per_second: 0, burst: 1 };
        let now = Instant::now();
        let mut bucket = Bucket { tokens: 0.0, at: now };
        for _ in 0..1000 {
            bucket.take(&limits, now).expect("no rate");
        }
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let limits = RateLimits { requests_per_second: 10, burst: 3 };
        let start = Instant::now();
        let mut bucket = Bucket { tokens: 3.0, at: start };
        for _ in 0..3 {
            bucket.take(&limits, start).expect("within the burst");
        }
        let wait = bucket.take(&limits, start).expect_err("past it");
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
        bucket.take(&limits, start + Duration::from_millis(101)).expect("one came back");
        bucket.take(&limits, start + Duration::from_millis(102)).expect_err("and no more");
        for _ in 0..3 {
            bucket
                .take(&limits, start + Duration::from_secs(3600))
                .expect("an hour fills no more than the burst");
        }
        bucket.take(&limits, start + Duration::from_secs(3600)).expect_err("as it says");
    }
}
