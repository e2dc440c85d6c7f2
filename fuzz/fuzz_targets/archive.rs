//! A whole archive: what is in it, its documents, its layers.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hood_image::fuzzing::archive(input));
