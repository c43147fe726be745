//! Arbitrary bytes as what clients put into fields and bodies in text.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::fields(bytes));
