//! The worker's last report, as the store has it. It is read for every submission, since what
//! validation knows must not be older than what the worker said; it is parsed once a version.

use std::sync::{Arc, Mutex, PoisonError};

use hood_core::Timestamp;
use hood_core::plan::Offer;
use hood_wire::api;

use super::error::{ApiError, ErrorCode};
use super::state::ApiState;
use crate::document::CatalogueDocument;

#[derive(Clone, Debug)]
pub(crate) struct Catalogue {
    pub version: u64,
    pub taken_at: Timestamp,
    pub offers: Vec<Offer>,
    document: CatalogueDocument,
}

impl Catalogue {
    pub(crate) fn new(version: u64, taken_at: Timestamp, document: CatalogueDocument) -> Self {
        let offers = document.offers(version, taken_at);
        Self { version, taken_at, offers, document }
    }

    /// Places of all executors together.
    pub(crate) fn places(&self) -> u32 {
        self.offers.iter().fold(0, |sum, offer| sum.saturating_add(offer.capacity.places))
    }

    pub(crate) fn environments(&self) -> &[api::Environment] {
        &self.document.environments
    }

    /// The environment of that name, or the default one where none is named.
    pub(crate) fn environment(&self, name: Option<&str>) -> Option<&api::Environment> {
        self.document.environment(name)
    }
}

/// The last catalogue that was parsed.
#[derive(Debug, Default)]
pub(crate) struct Catalogues {
    last: Mutex<Option<Arc<Catalogue>>>,
}

#[derive(Debug, thiserror::Error)]
enum CatalogueError {
    #[error("the stored catalogue of version {version} cannot be read")]
    Unreadable {
        version: u64,
        #[source]
        source: serde_json::Error,
    },
}

/// The catalogue, or `None` where no worker has written one yet.
pub(crate) async fn find(state: &ApiState) -> Result<Option<Arc<Catalogue>>, ApiError> {
    let Some(record) = state.store().capacity().await? else { return Ok(None) };
    let (version, at) = (record.version, record.at);
    if let Some(known) = state.catalogues().recall(version, at) {
        return Ok(Some(known));
    }
    let document: CatalogueDocument = serde_json::from_str(&record.document)
        .map_err(|source| ApiError::internal(CatalogueError::Unreadable { version, source }))?;
    let catalogue = Arc::new(Catalogue::new(version, at, document));
    state.catalogues().remember(catalogue.clone());
    Ok(Some(catalogue))
}

/// The catalogue that a submission is held against.
pub(crate) async fn need(state: &ApiState) -> Result<Arc<Catalogue>, ApiError> {
    find(state).await?.ok_or_else(|| {
        ApiError::new(ErrorCode::NotReady, "no worker has reported its places and environments yet")
            .retry_soon()
    })
}

impl Catalogues {
    fn recall(&self, version: u64, at: Timestamp) -> Option<Arc<Catalogue>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref()?;
        ((known.version, known.taken_at) == (version, at)).then(|| known.clone())
    }

    fn remember(&self, catalogue: Arc<Catalogue>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(catalogue);
    }
}
