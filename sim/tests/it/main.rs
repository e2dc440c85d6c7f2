//! Black box. A seed is a world, and the checker sees what is broken.

mod checker;
mod seeds;
