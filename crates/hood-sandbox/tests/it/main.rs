//! The sandbox against programs that attack it. Black box: the public interface of hood-sandbox and
//! the agent's link, with the embedded agent and static adversaries in a root image of their own.
//!
//! Everything here needs root and namespaces; where they are lacking the tests say so and count as
//! skipped.

mod harness;
mod lifecycle;
