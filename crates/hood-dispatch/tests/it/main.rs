//! Everything that needs a real sandbox below and no server above. Each module says whether it is
//! black, grey or white box.

mod bench;
mod conformance;
mod environment;
mod least;
mod local;
mod remote;
mod wire;
