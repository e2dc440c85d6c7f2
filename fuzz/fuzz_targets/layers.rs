//! Layers of tar entries, merged in memory: the part of an image that has the most to say.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hood_image::fuzzing::layers(input));
