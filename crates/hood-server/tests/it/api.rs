//! The HTTP API from outside, over a real store; the worker's part is played by the tests.

mod batches;
mod dead;
mod documents;
mod environments;
mod errors;
mod evaluations;
mod guards;
mod replicas;
mod service;
