//! Every code that a problem can carry. Clients match on them: a code is added, never renamed.

use axum::http::StatusCode;

macro_rules! codes {
    ($($variant:ident, $text:literal, $status:ident, $title:literal, $explanation:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum ErrorCode {
            $($variant,)*
        }

        impl ErrorCode {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// What it means and what to do, for the documentation.
            pub(crate) const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }
        }
    };
}

codes! {
    MalformedRequest, "malformed_request", BAD_REQUEST, "Malformed request",
        "The request breaks HTTP's own rules, or its body ended early.";
    MalformedJson, "malformed_json", BAD_REQUEST, "Malformed JSON",
        "The body is not JSON. The detail says at which line and column. Nesting is bounded.";
    InvalidParameter, "invalid_parameter", BAD_REQUEST, "Invalid parameter",
        "A parameter of the query, or a header, is unknown, repeated or out of its range. `errors` names each.";
    Unauthenticated, "unauthenticated", UNAUTHORIZED, "API key needed",
        "Send `Authorization: Bearer KEY`. The first key is in the file `token` of the data directory.";
    ForeignOrigin, "foreign_origin", FORBIDDEN, "Foreign origin",
        "A web page of another origin made this request. Pages elsewhere get no access, so that none can use a browser to reach this server.";
    NotFound, "not_found", NOT_FOUND, "No such path",
        "Nothing is served under this path. `/docs` lists what is.";
    EvaluationNotFound, "evaluation_not_found", NOT_FOUND, "No such evaluation",
        "No evaluation has this id, or it was deleted.";
    AttemptNotFound, "attempt_not_found", NOT_FOUND, "No such attempt",
        "The evaluation has not had this attempt. `attempts` of the resource lists those that it had.";
    BatchNotFound, "batch_not_found", NOT_FOUND, "No such batch",
        "No batch has this id.";
    DeliveryNotFound, "delivery_not_found", NOT_FOUND, "No such delivery",
        "No webhook delivery has this id.";
    EnvironmentNotFound, "environment_not_found", NOT_FOUND, "No such environment",
        "No environment has this name. `GET /v1/environments` lists them.";
    MethodNotAllowed, "method_not_allowed", METHOD_NOT_ALLOWED, "Method not allowed",
        "The path exists, the method does not. The header `Allow` lists those that do.";
    BodyTimeout, "body_timeout", REQUEST_TIMEOUT, "Body too slow",
        "The body did not arrive in time.";
    NotTerminal, "not_terminal", CONFLICT, "Not finished",
        "Only a finished evaluation can be deleted. Cancel it first and wait for its end.";
    CountMismatch, "count_mismatch", CONFLICT, "Another number matches",
        "The filter matches another number than `expect` says, or more than one request takes. Nothing was done: look again with `dry_run`, and say what you found.";
    IdempotencyConflict, "idempotency_conflict", CONFLICT, "Idempotency key used before",
        "This `Idempotency-Key` came before with another body. Use a new key for a new submission.";
    BodyTooLarge, "body_too_large", PAYLOAD_TOO_LARGE, "Body too large",
        "The body is larger than this endpoint takes. The detail names the bound.";
    UnsupportedMediaType, "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type",
        "Bodies are `Content-Type: application/json`, and not compressed.";
    RangeNotSatisfiable, "range_not_satisfiable", RANGE_NOT_SATISFIABLE, "Range not satisfiable",
        "The range lies beyond the end, or is more than one range. `Content-Range` has the length.";
    MisdirectedRequest, "misdirected_request", MISDIRECTED_REQUEST, "Not this server's name",
        "The request's `Host` is none of this server's names. A server on loopback answers to `localhost`, `127.0.0.1` and `[::1]` with its own port; others are configured.";
    InvalidFields, "invalid_fields", UNPROCESSABLE_ENTITY, "Invalid fields",
        "Fields of the body are unknown, missing, of the wrong type or out of their range. `errors` names each by its path.";
    Refused, "refused", UNPROCESSABLE_ENTITY, "Refused for good",
        "No place here can ever run this: it is too large, or of a class that is not offered. The detail has the reason.";
    RateLimited, "rate_limited", TOO_MANY_REQUESTS, "Too many requests",
        "This key's requests come faster than its rate allows. Wait for `Retry-After`.";
    TooManyStreams, "too_many_streams", TOO_MANY_REQUESTS, "Too many open streams",
        "This key holds as many long answers (events, followed output, `wait`) as it may. Close one.";
    Internal, "internal", INTERNAL_SERVER_ERROR, "Internal error",
        "Something failed on our side. The server's log has the reason under the request's id.";
    StoreAway, "store_away", SERVICE_UNAVAILABLE, "Database away",
        "The database cannot be used at the moment. What was answered with success is kept; a submission that failed with this may have been accepted, so repeat it with its `Idempotency-Key`. Wait for `Retry-After`.";
    BlobsAway, "blobs_away", SERVICE_UNAVAILABLE, "Blob store away",
        "What is kept apart from the database, long output and large submissions, cannot be read or written at the moment. Nothing was kept of a submission that failed with this. Wait for `Retry-After`.";
    NotReady, "not_ready", SERVICE_UNAVAILABLE, "Not ready",
        "No worker has reported its places and environments yet. Wait for `Retry-After`.";
    RefusedForNow, "refused_for_now", SERVICE_UNAVAILABLE, "Refused for now",
        "No place can run this now: the isolation that the policy asks for is not proven, no place is open, or the environment could not be built. The detail has the reason; `fumehood doctor` has the fix.";
    QueueFull, "queue_full", SERVICE_UNAVAILABLE, "Queue full",
        "As many evaluations wait as may. Wait for `Retry-After`.";
    StorageFull, "storage_full", SERVICE_UNAVAILABLE, "Storage full",
        "Database and outputs have filled `storage_bytes`; what was accepted is still finished from a reserve. Delete finished evaluations.";
    Overloaded, "overloaded", SERVICE_UNAVAILABLE, "Overloaded",
        "Bodies being read fill the memory that is set aside for them. Wait for `Retry-After`.";
}
