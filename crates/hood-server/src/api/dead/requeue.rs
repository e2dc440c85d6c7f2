use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use hood_core::{EvaluationId, Tenant, Timestamp, Verdict};
use hood_store::{Dead, Filter, FindError, Requeued};
use hood_wire::api::{FieldError, Requeue, RequeueFilter, RequeueOutcome, RequeueReport, RequeueRequest};

use crate::api::admission::invalid_fields;
use crate::api::body;
use crate::api::error::{ApiError, ErrorCode, problems};
use crate::api::guard::Caller;
use crate::api::query::filter_problem;
use crate::api::state::ApiState;
use crate::api::submission;

problems!(
    MalformedRequest,
    MalformedJson,
    BodyTimeout,
    CountMismatch,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidFields,
    QueueFull,
    StorageFull,
    Overloaded,
);

/// Evaluations that one request may requeue, or match; more take a narrower filter.
const REQUEUE_MAX: usize = 1000;

/// A page of the search for those that a filter matches.
const SEARCH_PAGE: u32 = 100;

const BODY_BYTES_MAX: usize = 256 * 1024;

/// Give evaluations that infrastructure failed another life.
///
/// Each becomes a new evaluation with the same request, labels and priority; the old one stays as it
/// ended, and each is given one at most. Name them by `ids`, or by a `filter` with the number that you
/// `expect` it to match: where it matches another, nothing is done.
#[utoipa::path(
    post, path = "/v1/dead/requeue", tag = "dead", operation_id = "requeue_dead",
    request_body(content = RequeueRequest, content_type = "application/json"),
    responses((status = 200, description = "What came of each.", body = RequeueReport), Problems),
)]
pub(crate) async fn requeue(
    State(state): State<ApiState>,
    caller: Caller,
    request: Request,
) -> Result<Json<RequeueReport>, ApiError> {
    let body = body::read(&state, request, BODY_BYTES_MAX).await?;
    let asked: RequeueRequest = body::json(&body.bytes)?;
    let chosen = chosen(&state, &caller.tenant, &asked).await?;
    let mut items = Vec::with_capacity(chosen.len());
    for old in &chosen {
        items.push(if asked.dry_run {
            would(&state, &caller.tenant, *old).await?
        } else {
            let now = state.now();
            let pair = (*old, submission::id(now));
            shown(*old, state.store().requeue(&caller.tenant, pair, now).await?)
        });
    }
    Ok(Json(RequeueReport { dry_run: asked.dry_run, matched: chosen.len() as u64, items }))
}

async fn chosen(
    state: &ApiState,
    tenant: &Tenant,
    asked: &RequeueRequest,
) -> Result<Vec<EvaluationId>, ApiError> {
    let wrong =
        |path: &str, message: String| invalid_fields(vec![FieldError { path: path.to_owned(), message }], 1);
    match (&asked.filter, asked.ids.len()) {
        (None, 0) => Err(wrong("ids", "are needed, or a `filter`".to_owned())),
        (None, n) if n > REQUEUE_MAX => {
            Err(wrong("ids", format!("are {n}; at most {REQUEUE_MAX} are taken")))
        }
        (None, _) => asked
            .ids
            .iter()
            .enumerate()
            .map(|(i, id)| {
                id.parse()
                    .map_err(|error: hood_core::id::IdError| wrong(&format!("ids[{i}]"), error.to_string()))
            })
            .collect(),
        (Some(_), n) if n > 0 => Err(wrong("filter", "goes without `ids`".to_owned())),
        (Some(filter), _) => {
            if asked.expect.is_none() && !asked.dry_run {
                let message = "is needed with `filter`: a `dry_run` tells how many it matches";
                return Err(wrong("expect", message.to_owned()));
            }
            let filter = read_filter(filter).map_err(|(path, message)| wrong(path, message))?;
            let found = search(state, tenant, &filter).await?;
            match asked.expect {
                Some(expected) if expected != found.len() as u64 => Err(ApiError::new(
                    ErrorCode::CountMismatch,
                    format!("the filter matches {}, not {expected}; nothing was requeued", found.len()),
                )),
                _ => Ok(found),
            }
        }
    }
}

fn read_filter(asked: &RequeueFilter) -> Result<Filter, (&'static str, String)> {
    let RequeueFilter { labels, since, batch } = asked;
    if let Some(problem) = filter_problem(labels.iter()) {
        return Err(("filter.labels", problem));
    }
    let since = since.as_deref().map(|text| {
        let moment = text.parse::<jiff::Timestamp>();
        moment.map_err(|_| ("filter.since", "is a time as RFC 3339 writes it".to_owned()))
    });
    let batch = batch.as_deref().map(|text| {
        text.parse().map_err(|error: hood_core::id::IdError| ("filter.batch", error.to_string()))
    });
    Ok(Filter {
        labels: BTreeMap::clone(labels).into_iter().collect(),
        since: since.transpose()?.map(|at| Timestamp::from_micros(at.as_microsecond())),
        batch: batch.transpose()?,
        dead: Some(Dead::Left),
        ..Filter::default()
    })
}

/// All that the filter matches, oldest first, as they were accepted.
async fn search(state: &ApiState, tenant: &Tenant, filter: &Filter) -> Result<Vec<EvaluationId>, ApiError> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = state.store().list(tenant, filter, cursor, SEARCH_PAGE).await?;
        found.extend(page.items.iter().map(|item| item.id));
        if found.len() > REQUEUE_MAX {
            let message = format!("the filter matches more than {REQUEUE_MAX}; narrow it and go on in parts");
            return Err(ApiError::new(ErrorCode::CountMismatch, message));
        }
        cursor = page.next;
        if cursor.is_none() {
            found.reverse();
            return Ok(found);
        }
    }
}

async fn would(state: &ApiState, tenant: &Tenant, id: EvaluationId) -> Result<Requeue, ApiError> {
    let came = match state.store().get(tenant, id).await {
        Err(FindError::NotFound) => Some(Requeued::NotFound),
        Err(error) => return Err(ApiError::find(error)),
        Ok(record) if record.verdict != Some(Verdict::InfrastructureError) => Some(Requeued::NotDead),
        Ok(record) => {
            let before = state.store().lives(tenant, id).await?.after.map(Requeued::Already);
            before.or_else(|| record.archived.then_some(Requeued::Archived))
        }
    };
    let would = Requeue { id: id.to_string(), outcome: RequeueOutcome::WouldRequeue, requeued_as: None };
    Ok(came.map_or(would, |came| shown(id, came)))
}

fn shown(id: EvaluationId, came: Requeued) -> Requeue {
    let (outcome, again) = match came {
        Requeued::As(again) => (RequeueOutcome::Requeued, Some(again)),
        Requeued::Already(again) => (RequeueOutcome::AlreadyRequeued, Some(again)),
        Requeued::NotDead => (RequeueOutcome::NotDead, None),
        Requeued::Archived => (RequeueOutcome::Archived, None),
        Requeued::NotFound => (RequeueOutcome::NotFound, None),
    };
    Requeue { id: id.to_string(), outcome, requeued_as: again.map(|again| again.to_string()) }
}
