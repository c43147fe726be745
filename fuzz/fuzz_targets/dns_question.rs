//! Arbitrary bytes as a DNS query: parsed, and answered on both paths.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_dns::fuzzing::question(bytes));
