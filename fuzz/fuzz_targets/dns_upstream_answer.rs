//! Arbitrary bytes as an upstream's answer: read, kept, and put behind a question again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_dns::fuzzing::upstream_answer(bytes));
