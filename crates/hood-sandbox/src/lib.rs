//! hood-sandbox
