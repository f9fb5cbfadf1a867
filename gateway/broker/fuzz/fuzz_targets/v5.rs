#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fieldgate_broker::fuzzing::run_v5(input));
