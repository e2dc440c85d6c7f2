//! hood-client
