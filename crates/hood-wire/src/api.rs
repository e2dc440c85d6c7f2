//! The public HTTP API, version 1.
