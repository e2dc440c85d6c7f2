//! Deterministic simulation: the worker that is shipped, its core, both halves of its link to
//! dispatchers and the place's end of it, under a scheduler, a clock, a store, a network and processes
//! that are made up from a seed. One seed is one world: what happens in it happens again, poll by
//! poll, whenever it is run.
//!
//! What is not the shipped code here: the store (an in-memory one), what carries the link's calls,
//! the places' insides, and the clients.

pub mod checker;
pub mod cli;
mod client;
mod fate;
pub mod history;
mod ledger;
mod net;
mod places;
mod process;
mod rng;
pub mod run;
mod scheduler;
mod script;
mod world;
