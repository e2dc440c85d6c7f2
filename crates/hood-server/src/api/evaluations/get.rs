use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use hood_wire::api::Evaluation;

use super::{parse_id, resource};
use crate::api::error::{ApiError, problems};
use crate::api::guard::Caller;
use crate::api::path::Segment;
use crate::api::query::Query;
use crate::api::state::ApiState;
use crate::api::watch::Watch;

problems!(InvalidParameter, EvaluationNotFound, TooManyStreams);

/// Get an evaluation.
#[utoipa::path(
    get, path = "/v1/evaluations/{id}", tag = "evaluations", operation_id = "get_evaluation",
    params(
        ("id" = String, Path, description = "`ev_` and 32 lowercase hexadecimal digits."),
        ("wait" = Option<String>, Query, description = "Answer as soon as the evaluation is terminal, or with what there is when this time is over: `10s`, `500ms`.", example = "10s"),
    ),
    responses((status = 200, description = "As it stands.", body = Evaluation), Problems),
)]
pub(crate) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    Segment(id): Segment,
    uri: Uri,
) -> Result<Json<Evaluation>, ApiError> {
    let mut query = Query::of(&uri)?;
    let wait = query.wait(state.config().limits.stream.wait_max);
    query.finish()?;
    let id = parse_id(&id)?;
    if let Some(wait) = wait {
        let _permit = caller.wait()?;
        Watch::new(&state, &caller, id).until_terminal(wait).await?;
    }
    resource::load(&state, &caller.tenant, id).await.map(Json)
}
