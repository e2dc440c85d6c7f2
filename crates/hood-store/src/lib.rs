//! hood-store
