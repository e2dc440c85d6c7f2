use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hood_core::EvaluationId;
use hood_store::Accepted;
use hood_wire::api::{Evaluation, Submission};

use super::resource;
use crate::api::admission::Admission;
use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::query::Query;
use crate::api::state::ApiState;
use crate::api::submission::{self, Prepared, SubmissionHeaders};
use crate::api::watch::Watch;
use crate::api::{body, catalogue};

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
    TooManyStreams,
    NotReady,
    RefusedForNow,
    QueueFull,
    StorageFull,
    Overloaded,
);

/// Submit an evaluation.
///
/// The answer comes once the submission is durable: what was answered 201 ends in exactly one
/// terminal state, whatever dies and when.
#[utoipa::path(
    post, path = "/v1/evaluations", tag = "evaluations", operation_id = "create_evaluation",
    request_body(content = Submission, content_type = "application/json"),
    params(
        ("wait" = Option<String>, Query, description = "Answer as soon as the evaluation is terminal, or with what there is when this time is over: `10s`, `500ms`.", example = "10s"),
        ("Idempotency-Key" = Option<String>, Header, description = "Makes the request safe to send again: the same key and body give the same evaluation (200), another body 409. Kept as long as the evaluation."),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; kept with the evaluation."),
    ),
    responses(
        (status = 201, description = "Accepted.", body = Evaluation, headers(("Location" = String, description = "Path of the evaluation."))),
        (status = 200, description = "The same key and body came before; this is that evaluation.", body = Evaluation),
        Problems,
    ),
)]
pub(crate) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let limits = &state.config().limits;
    let mut query = Query::of(request.uri())?;
    let wait = query.wait(limits.stream.wait_max);
    query.finish()?;
    let headers = SubmissionHeaders::of(request.headers(), limits.submission.idempotency_key_bytes_max)?;
    // Taken before anything is stored: an answer of 429 must mean that nothing was.
    let permit = wait.map(|_| caller.wait()).transpose()?;
    let (id, status) = accept(&state, &caller, headers, request).await?;
    if let Some(wait) = wait {
        Watch::new(&state, &caller, id).until_terminal(wait).await?;
    }
    drop(permit);
    let evaluation = resource::load(&state, &caller.tenant, id).await?;
    Ok((status, [(header::LOCATION, format!("/v1/evaluations/{id}"))], Json(evaluation)).into_response())
}

async fn accept(
    state: &ApiState,
    caller: &Caller,
    headers: SubmissionHeaders,
    request: Request,
) -> Result<(EvaluationId, StatusCode), ApiError> {
    let limits = &state.config().limits.body;
    let body = body::read(state, request, limits.bytes_max).await?;
    // Kept for later: what came before under the same key is answered without it.
    let catalogue = catalogue::need(state).await;
    let id = submission::id(state.now());
    let large = body.bytes.len() > limits.offload_bytes;
    let room = body::room(state, body.bytes.len()).await?;
    let shared = state.clone();
    let prepared = submission::off_thread(large, move || {
        let submitted: Submission = body::json(&body.bytes)?;
        drop(body);
        let idempotency = headers.idempotency("evaluation", &submitted)?;
        let admitted = catalogue.and_then(|catalogue| {
            Admission { catalogue: &catalogue, config: shared.config() }.admit_one(submitted)
        });
        let of = (&headers, shared.config().request_bytes_in_rows_max);
        let new = admitted.and_then(|admitted| submission::new_evaluation(id, admitted, of));
        Ok(Prepared { count: 1, idempotency, new: new.map(|new| vec![new]) })
    })
    .await?;
    let stored = submission::store(state, caller, None, prepared).await;
    drop(room);
    match stored? {
        Accepted::New => Ok((id, StatusCode::CREATED)),
        Accepted::Existing { evaluations, .. } => match evaluations.first() {
            Some(existing) => Ok((*existing, StatusCode::OK)),
            // Deleted between the store's answer and its transaction's end: the key is free again.
            None => Err(ApiError::new(
                ErrorCode::IdempotencyConflict,
                "the evaluation of this Idempotency-Key was deleted; use a new key",
            )),
        },
    }
}
