//! The roles that the binary can play.
