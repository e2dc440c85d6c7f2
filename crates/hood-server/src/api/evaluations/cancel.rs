use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use hood_store::CancelWish;
use hood_wire::api::{CancelRequest, Evaluation};

use super::{parse_id, resource};
use crate::api::admission::{check_grace, invalid_fields};
use crate::api::body;
use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::path::Segment;
use crate::api::state::ApiState;
use crate::document::{self, ResultDocument};

problems!(
    MalformedRequest,
    MalformedJson,
    EvaluationNotFound,
    BodyTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidFields,
    Overloaded,
);

/// A body of one number.
const BODY_BYTES_MAX: usize = 4096;

/// Cancel an evaluation.
///
/// At any stage, and as often as you like. A queued one ends at once; a running one gets SIGTERM,
/// its grace, and then the kill; a finished one stays as it is.
#[utoipa::path(
    post, path = "/v1/evaluations/{id}/cancel", tag = "evaluations", operation_id = "cancel_evaluation",
    params(("id" = String, Path, description = "`ev_` and 32 lowercase hexadecimal digits.")),
    request_body(content = Option<CancelRequest>, content_type = "application/json", description = "May be left out."),
    responses((status = 202, description = "The intent is stored; the evaluation as it stands.", body = Evaluation), Problems),
)]
pub(crate) async fn cancel(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
    request: Request,
) -> Result<(StatusCode, Json<Evaluation>), ApiError> {
    let id = parse_id(&id)?;
    let body = body::read(&state, request, BODY_BYTES_MAX).await?;
    let asked = if body.bytes.is_empty() {
        CancelRequest::default()
    } else {
        body::json::<CancelRequest>(&body.bytes)?
    };
    let bounds = &state.config().limits.submission;
    if let Some(error) = asked.grace_ms.and_then(|grace_ms| check_grace(grace_ms, bounds)) {
        return Err(invalid_fields(vec![error], bounds.errors_max));
    }
    let result_if_queued = document::to_json(&ResultDocument::cancelled_in_queue());
    let wish = CancelWish { grace_ms: asked.grace_ms, now: state.now(), result_if_queued };
    state.store().request_cancel(&caller.tenant, id, wish).await.map_err(ApiError::find)?;
    let evaluation = resource::load(&state, &caller.tenant, id).await?;
    Ok((StatusCode::ACCEPTED, Json(evaluation)))
}
