//! Worker to dispatcher, version 1: what is to be run goes one way, numbered frames come back.
//!
//! Every message bears [`VERSION`]; a field that the reader does not know is ignored, and one that
//! the writer did not know has a default, so that neighbouring releases run together. What kinds,
//! layers and causes there are is text: a reader leaves out what it does not know where that proves
//! less, and refuses where it would have to guess.

mod capacity;
mod codec;
mod frame;
mod order;
mod place;

pub use capacity::{
    Capacity, Catalogue, Code, Environment, EnvironmentState, ImportedImage, Package, Progress, Unproven,
};
pub use codec::{
    CodecError, FRAME_BYTES_MAX, FrameReader, HEAD_BYTES_MAX, decode_order, encode_frame, encode_order,
};
pub use frame::{BuildSeen, ExecError, Frame, FrameBody, Kill, Observation, StreamEnd, Usage, WaitStatus};
pub use order::{Assignment, Build, Conduct, Degraded, File, Limits, Order, OrderHead, Program};
pub use place::{
    Acknowledge, Cancel, Listen, Opened, PlaceState, Problem, ProblemCode, Status, StatusRequest,
};

/// What this code speaks.
pub const VERSION: u32 = 1;

/// The oldest that it still understands.
pub const OLDEST: u32 = 1;

/// The header that carries the caller's version.
pub const VERSION_HEADER: &str = "fumehood-dispatch-version";

/// Media type of an order: a head in JSON, then the bytes of the files and of stdin.
pub const ORDER_TYPE: &str = "application/vnd.fumehood.order";

/// Media type of a stream of frames.
pub const FRAMES_TYPE: &str = "application/vnd.fumehood.frames";
