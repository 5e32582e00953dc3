//! The kernel programs' own log lines (feature `kernel-log`), passed on to guardd's log.

use aya::Ebpf;
use aya_log::EbpfLogger;

/// Reads the log ring.
pub(super) struct Lines(Option<EbpfLogger<ToTracing>>);

impl Lines {
    pub(super) fn new(ebpf: &mut Ebpf) -> Self {
        let logger = EbpfLogger::init_with_logger(ebpf, ToTracing);
        if let Err(error) = &logger {
            tracing::warn!(%error, "the kernel programs' log cannot be read");
        }
        Self(logger.ok())
    }

    pub(super) fn flush(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}

struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "kernel", "{}", record.args());
    }

    fn flush(&self) {}
}
