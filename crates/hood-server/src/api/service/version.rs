use axum::Json;
use hood_wire::api::Version;

use crate::api::error::problems;
use crate::api::guard::Caller;

problems!();

/// Get the server's version.
#[utoipa::path(
    get, path = "/v1/version", tag = "service", operation_id = "get_version",
    responses((status = 200, description = "Name and versions.", body = Version), Problems),
)]
pub(crate) async fn get(_caller: Caller) -> Json<Version> {
    Json(Version {
        name: "fumehood".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: "v1".to_owned(),
    })
}
