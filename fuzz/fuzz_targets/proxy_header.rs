//! Arbitrary bytes as a PROXY header.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::proxy_protocol(bytes));
