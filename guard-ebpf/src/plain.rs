//! The same programs for kernels without `bpf_loop` (before Linux 5.17), whose verifiers also refuse the
//! addresses of functions that it takes. Loops are plain and shorter: see `guard_common::plain`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod acts;
mod connect;
mod copies;
mod emit;
mod environ;
mod exec;
mod judge;
mod kernel;
mod lineage;
mod maps;
mod open;
mod own;
mod path;

/// See `main.rs`.
pub const HAS_LOOP: bool = false;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
