//! hood-core
