//! The sandbox against programs that attack it. Grey box: the public interface of hood-sandbox, the
//! agent's link, and what the host can see of a place, with the shipped agent and a static adversary in
//! a root image of its own.
//!
//! These tests need root, namespaces and writable cgroups, and fail where there are none: a sandbox
//! that was not tested is not to be believed.

mod attacks;
mod builds;
mod burial;
mod filter;
mod floods;
mod harness;
mod lifecycle;
mod neighbours;
mod ordinary;
mod recluse;
