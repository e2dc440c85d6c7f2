//! The OpenAPI document: what the routes say of themselves, and what is true of all of them.

mod examples;

use hood_wire::api::{Building, FieldError, Problem, WebhookMessage};
use utoipa::OpenApi;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{RefOr, Schema};

use super::evaluations::output::OutputBytes;
use super::routes;

const KEY: &str = "key";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fumehood",
        version = "1.0.0",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        description = "Runs untrusted evaluations behind strong isolation and gives back results that can be trusted.\n\nErrors are RFC 9457 problems with a stable `code`; unknown fields and parameters are errors too. Times are RFC 3339, UTC; sizes are bytes; durations are milliseconds."
    ),
    components(schemas(Problem, FieldError, WebhookMessage, Building, OutputBytes)),
    tags(
        (name = "evaluations", description = "Code to run, and what came of it."),
        (name = "batches", description = "Many evaluations accepted at once."),
        (name = "dead", description = "What infrastructure failed, and another life for it."),
        (name = "deliveries", description = "Webhooks: what was told of ends, and what was not."),
        (name = "environments", description = "What code runs in."),
        (name = "service", description = "The server itself."),
        (name = "health", description = "For orchestrators and monitoring."),
    ),
)]
pub(super) struct Description;

/// What clients send, and what leaves fields out where they do not apply. In everything else every
/// field is there, if only as null.
const MAY_LACK_FIELDS: [&str; 11] = [
    "BatchSubmission",
    "CancelRequest",
    "Event",
    "EventDetail",
    "Hops",
    "InputFile",
    "LimitsRequest",
    "Problem",
    "RequeueFilter",
    "RequeueRequest",
    "Submission",
];

/// Adds the key, which every route needs that does not say otherwise, and says of headers what is
/// said of the query: one that may be left out is not null.
pub(super) fn finish(document: &mut utoipa::openapi::OpenApi) {
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(KEY, scheme);
    for (name, schema) in &mut components.schemas {
        if let RefOr::T(Schema::Object(object)) = schema
            && !MAY_LACK_FIELDS.contains(&name.as_str())
        {
            object.required = object.properties.keys().cloned().collect();
        }
    }
    offer_examples(document);
    document.security = Some(vec![SecurityRequirement::new(KEY, Vec::<String>::new())]);
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten();
        let parameters = operations.filter_map(|operation| operation.parameters.as_mut()).flatten();
        for parameter in parameters {
            if let RefOr::T(Parameter { schema: Some(RefOr::T(Schema::Object(object))), .. }) = parameter {
                not_null(&mut object.schema_type);
            }
        }
    }
}

/// Where evaluations are submitted, one for each environment.
fn offer_examples(document: &mut utoipa::openapi::OpenApi) {
    let submit = document.paths.paths.get_mut("/v1/evaluations").and_then(|item| item.post.as_mut());
    let Some(RefOr::T(body)) = submit.and_then(|submit| submit.request_body.as_mut()) else { return };
    for content in body.content.values_mut() {
        if let RefOr::T(content) = content {
            content.examples = examples::submissions();
        }
    }
}

fn not_null(schema_type: &mut SchemaType) {
    if let SchemaType::Array(types) = schema_type {
        types.retain(|one| *one != Type::Null);
        if let [only] = types.as_slice() {
            *schema_type = SchemaType::Type(only.clone());
        }
    }
}

/// The document as it is committed in `openapi/v1.json`.
pub fn openapi() -> String {
    let mut text = routes::document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
