//! Whose request it is. A token is looked up by its hash, so that comparing takes no longer the
//! more of it is right; what was found is remembered for a while, since each lookup is a query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use hood_core::Tenant;

use super::rate::{LongAnswer, StreamPermit, Usage};
use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorCode};

/// A key that is withdrawn works no longer than this.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// Keys remembered at once; past it, the one looked up longest ago is forgotten.
const REMEMBERED_MAX: usize = 4096;

/// The hash under which a token is stored.
pub fn token_hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// Who makes a request, known from its key.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub tenant: Tenant,
    usage: Arc<Usage>,
}

impl Caller {
    pub(crate) fn events(&self) -> Result<StreamPermit, ApiError> {
        self.usage.long_answer(LongAnswer::Events)
    }

    pub(crate) fn output(&self) -> Result<StreamPermit, ApiError> {
        self.usage.long_answer(LongAnswer::Output)
    }

    pub(crate) fn wait(&self) -> Result<StreamPermit, ApiError> {
        self.usage.long_answer(LongAnswer::Wait)
    }
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        // A route that forgot the layer below is closed, not open.
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthenticated)
    }
}

/// Keys that were looked up not long ago.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    known: Mutex<HashMap<[u8; 32], Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    caller: Caller,
    looked_up: Instant,
}

impl Keyring {
    fn recall(&self, hash: &[u8; 32], now: Instant) -> Option<Caller> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(hash)?;
        (now.saturating_duration_since(entry.looked_up) < REMEMBERED_FOR).then(|| entry.caller.clone())
    }

    /// Remembers the key; its usage so far stays with it.
    fn remember(&self, hash: [u8; 32], tenant: Tenant, state: &ApiState, now: Instant) -> Caller {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = match known.get(&hash) {
            Some(entry) => entry.caller.usage.clone(),
            None => Arc::new(Usage::new(&state.config().limits, now)),
        };
        if known.len() >= REMEMBERED_MAX && !known.contains_key(&hash) {
            let oldest = known.iter().min_by_key(|(_, entry)| entry.looked_up).map(|(hash, _)| *hash);
            oldest.and_then(|hash| known.remove(&hash));
        }
        let caller = Caller { tenant, usage };
        known.insert(hash, Known { caller: caller.clone(), looked_up: now });
        caller
    }

    fn forget(&self, hash: &[u8; 32]) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }
}

/// Lets a request with a known key through, within that key's rate.
pub(crate) async fn authenticate(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let hash = token_hash(bearer(request.headers()).ok_or_else(unauthenticated)?);
    let now = Instant::now();
    let caller = match state.keyring().recall(&hash, now) {
        Some(caller) => caller,
        None => match state.store().find_key(&hash).await? {
            Some(key) => state.keyring().remember(hash, key.tenant, &state, now),
            None => {
                state.keyring().forget(&hash);
                return Err(unauthenticated());
            }
        },
    };
    caller.usage.request(&state.config().limits.rate, now)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else { return None };
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn unauthenticated() -> ApiError {
    ApiError::new(
        ErrorCode::Unauthenticated,
        "send `Authorization: Bearer KEY`; the first key is in the file `token` of the server's data directory",
    )
}
