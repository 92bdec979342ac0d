//! What the targets share: the bound of memory.

use std::alloc::System;

use cap::Cap;

/// Bytes of memory that the metadata of one file may take.
const MOST_MEMORY: usize = 64 * 1024 * 1024;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `read` on the bytes of a file. An allocation beyond the bound fails, which ends the process.
pub fn within_memory(read: fn(&[u8]), bytes: &[u8]) {
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + MOST_MEMORY).expect("more than is allocated");
    read(bytes);
}
