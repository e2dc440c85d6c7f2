//! hood-dispatch
