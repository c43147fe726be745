//! Arbitrary bytes as what either end of an HTTP/2 connection is sent.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::http2(bytes));
