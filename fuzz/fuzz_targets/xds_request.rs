//! Arbitrary bytes as what a client does on an xDS stream, between changes of the catalog.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| portolan_xds::fuzzing::requests(bytes));
