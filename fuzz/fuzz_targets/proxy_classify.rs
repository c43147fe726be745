//! Arbitrary bytes as the first of a connection whose protocol is to be told.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::classify(bytes));
