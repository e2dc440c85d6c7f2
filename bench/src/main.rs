//! Benchmarks and real input.

fn main() {}
