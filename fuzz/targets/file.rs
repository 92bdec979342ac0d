#![no_main]

use file_watcher::content::fuzzing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| file_watcher_fuzz::within_memory(fuzzing::file, bytes));
