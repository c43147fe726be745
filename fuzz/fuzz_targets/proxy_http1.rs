//! Arbitrary bytes as heads, chunks and trailers of HTTP/1.1.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::http1(bytes));
