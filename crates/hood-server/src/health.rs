//! Whether each thing that a role needs is there.
