//! White box: archives made byte by byte, unpacked in this process.

mod attacks;
mod export;
mod formats;
mod layers;
mod make;
