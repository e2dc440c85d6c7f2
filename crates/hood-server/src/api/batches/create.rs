use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hood_core::{BatchId, EvaluationId};
use hood_store::Accepted;
use hood_wire::api::{BatchCreated, BatchSubmission, FieldError};

use crate::api::admission::{Admission, invalid_fields};
use crate::api::body::{self, Body};
use crate::api::catalogue::{self, Catalogue};
use crate::api::config::SubmissionLimits;
use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::query::Query;
use crate::api::state::ApiState;
use crate::api::submission::{self, Prepared, SubmissionHeaders};

problems!(
    MalformedRequest,
    MalformedJson,
    InvalidParameter,
    BodyTimeout,
    IdempotencyConflict,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidFields,
    Refused,
    NotReady,
    RefusedForNow,
    QueueFull,
    StorageFull,
    Overloaded,
);

/// Submit many evaluations at once.
///
/// All are accepted in one transaction, or none is.
#[utoipa::path(
    post, path = "/v1/batches", tag = "batches", operation_id = "create_batch",
    request_body(content = BatchSubmission, content_type = "application/json"),
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to send again: the same key and body give the same batch (200), another body 409. Kept as long as any evaluation of the batch."),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; kept with each evaluation."),
    ),
    responses(
        (status = 201, description = "Accepted.", body = BatchCreated, headers(("Location" = String, description = "Path of the batch."))),
        (status = 200, description = "The same key and body came before; this is that batch, less what was deleted of it since.", body = BatchCreated),
        Problems,
    ),
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let limits = &state.config().limits;
    Query::of(request.uri())?.finish()?;
    let headers = SubmissionHeaders::of(request.headers(), limits.submission.idempotency_key_bytes_max)?;
    let body = body::read(&state, request, limits.body.bytes_max).await?;
    // Kept for later: what came before under the same key is answered without it.
    let catalogue = catalogue::need(&state).await;
    let large = body.bytes.len() > limits.body.offload_bytes;
    let room = body::room(&state, body.bytes.len()).await?;
    let shared = state.clone();
    let prepared = submission::off_thread(large, move || prepare(&shared, catalogue, &headers, body)).await?;
    let batch = BatchId::new(state.now(), rand::random());
    let ids = prepared.new.iter().flatten().map(|evaluation| evaluation.id).collect();
    let stored = submission::store(&state, &caller, Some(batch), prepared).await;
    drop(room);
    match stored? {
        Accepted::New => Ok(answer(StatusCode::CREATED, batch, ids)),
        Accepted::Existing { batch: Some(batch), evaluations } => {
            Ok(answer(StatusCode::OK, batch, evaluations))
        }
        Accepted::Existing { batch: None, .. } => Err(ApiError::new(
            ErrorCode::IdempotencyConflict,
            "this Idempotency-Key came before with a single evaluation: use a new key",
        )),
    }
}

fn prepare(
    state: &ApiState,
    catalogue: Result<Arc<Catalogue>, ApiError>,
    headers: &SubmissionHeaders,
    body: Body,
) -> Result<Prepared, ApiError> {
    let submitted: BatchSubmission = body::json(&body.bytes)?;
    drop(body);
    let count = submitted.evaluations.len();
    check_count(count, &state.config().limits.submission)?;
    let idempotency = headers.idempotency("batch", &submitted)?;
    let admitted = catalogue.and_then(|catalogue| {
        Admission { catalogue: &catalogue, config: state.config() }.admit_all(submitted.evaluations)
    });
    let new = admitted.and_then(|admitted| {
        let ids = submission::ids(count, state.now()).into_iter().zip(admitted);
        let of = (headers, state.config().request_bytes_in_rows_max);
        ids.map(|(id, admitted)| submission::new_evaluation(id, admitted, of)).collect()
    });
    Ok(Prepared { count, idempotency, new })
}

fn check_count(count: usize, bounds: &SubmissionLimits) -> Result<(), ApiError> {
    let most = bounds.batch_max;
    if (1..=most).contains(&count) {
        return Ok(());
    }
    let message = format!("has {count} elements; a batch has 1 to {most}");
    Err(invalid_fields(vec![FieldError { path: "evaluations".to_owned(), message }], bounds.errors_max))
}

fn answer(status: StatusCode, batch: BatchId, evaluations: Vec<EvaluationId>) -> Response {
    let evaluations = evaluations.iter().map(ToString::to_string).collect();
    let body = BatchCreated { id: batch.to_string(), evaluations };
    (status, [(header::LOCATION, format!("/v1/batches/{batch}"))], Json(body)).into_response()
}
