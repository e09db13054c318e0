//! The process that a vat runs in, under the names that dashboards know: `process_...`.

use std::sync::atomic::AtomicU64;

use procfs::process::Process as Entry;
use prometheus_client::{
    encoding::prometheus_text,
    metrics::{
        counter::Counter,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

/// The numbers of this process. Where there is no `/proc` all of them stay zero.
pub(super) struct Process {
    registry: Registry,
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge<u64, AtomicU64>,
    virtual_bytes: Gauge<u64, AtomicU64>,
    open_fds: Gauge<u64, AtomicU64>,
    threads: Gauge<u64, AtomicU64>,
}

impl Process {
    pub fn new() -> Process {
        let mut registry = Registry::with_prefix("process");
        let (cpu, resident, virtual_bytes) =
            (Counter::default(), Gauge::default(), Gauge::default());
        let (open_fds, threads) = (Gauge::default(), Gauge::default());
        registry.register(
            "cpu_seconds",
            "How long the process has used processors, for itself and in the kernel",
            cpu.clone(),
        );
        registry.register(
            "resident_memory_bytes",
            "The memory of the process that is in RAM",
            resident.clone(),
        );
        registry.register(
            "virtual_memory_bytes",
            "The memory that the process has addresses for",
            virtual_bytes.clone(),
        );
        registry.register(
            "open_fds",
            "File descriptors that are open",
            open_fds.clone(),
        );
        registry.register("threads", "Threads of the process", threads.clone());
        if let Some(most) = most_fds() {
            let most = ConstGauge::new(most);
            registry.register("max_fds", "File descriptors that may be open", most);
        }
        Process {
            registry,
            cpu,
            resident,
            virtual_bytes,
            open_fds,
            threads,
        }
    }

    /// Appends the numbers, as they are now, to a text. Costs some reads of `/proc`.
    pub fn encode(&self, text: &mut String) {
        // What cannot be read stays as it was.
        if let Ok(entry) = Entry::myself() {
            if let Ok(stat) = entry.stat() {
                let ticks = (stat.utime + stat.stime) as f64;
                let more = ticks / procfs::ticks_per_second() as f64 - self.cpu.get();
                if more > 0.0 {
                    self.cpu.inc_by(more);
                }
                self.resident.set(stat.rss * procfs::page_size());
                self.virtual_bytes.set(stat.vsize);
                self.threads.set(stat.num_threads.unsigned_abs());
            }
            if let Ok(open) = entry.fd_count() {
                self.open_fds.set(open as u64);
            }
        }
        prometheus_text::encode(text, &self.registry)
            .expect("a string takes whatever is written to it");
    }
}

/// How many file descriptors the process may have open, if that is known and bounded.
fn most_fds() -> Option<u64> {
    match Entry::myself()
        .ok()?
        .limits()
        .ok()?
        .max_open_files
        .soft_limit
    {
        procfs::process::LimitValue::Value(most) => Some(most),
        procfs::process::LimitValue::Unlimited => None,
    }
}
