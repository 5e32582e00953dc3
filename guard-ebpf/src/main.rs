//! What guard does in the kernel. One file per thing watched; the facts they find go through
//! [`judge`], which alone decides, and [`emit`], which alone tells.
//!
//! Everything here is reached only for processes in the lineage table, except the three lineage
//! hooks themselves. With no session alive only those three are attached.
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
mod names;
mod open;
mod own;
mod path;
mod requests;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
