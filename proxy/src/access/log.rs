//! Records on their way from the workers to the thread that writes them.
//!
//! Each worker has two buffers. The writing thread holds one lock at a time, so one of the two is
//! always free and a worker only ever tries. Owns the bound of a buffer and the sampling.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::SystemTime;

use portolan_model::Generation;
use portolan_model::traffic::falls_in;

use super::record::Record;
use super::stamp::Stamp;
use super::{AccessFormat, AccessLog};
use crate::metrics::Counter;

/// Bytes that may wait in one buffer of a worker; a record that finds as many is dropped.
pub(super) const MAX_WAITING: usize = 1 << 20;
/// Bytes at which the writing thread is told not to wait for more.
const HURRY: usize = MAX_WAITING / 2;

/// What the access log counts.
#[derive(Debug, Default)]
pub(crate) struct LogMetrics {
    pub(crate) records: Counter,
    pub(crate) dropped: Counter,
    pub(crate) failures: Counter,
}

/// The records that wait to be written.
#[derive(Debug)]
pub(crate) struct Log {
    format: AccessFormat,
    sample_per_million: u32,
    workers: Box<[[Mutex<Waiting>; 2]]>,
    pub(super) metrics: Arc<LogMetrics>,
    pub(super) writer: OnceLock<Thread>,
    /// The file is to be opened anew.
    pub(super) reopen: AtomicBool,
    /// What is there is to be written, and that is all.
    pub(super) closing: AtomicBool,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Waiting {
    bytes: Vec<u8>,
    records: u64,
    dropped: u64,
}

/// What one worker writes with.
#[derive(Debug)]
pub(crate) struct Pen {
    log: Arc<Log>,
    worker: usize,
    generation: Cell<Option<u64>>,
    stamp: RefCell<Stamp>,
}

impl Log {
    pub(crate) fn new(config: &AccessLog, workers: usize, metrics: Arc<LogMetrics>) -> Self {
        Self {
            format: config.format,
            sample_per_million: config.sample_per_million,
            workers: (0..workers).map(|_| Default::default()).collect(),
            metrics,
            writer: OnceLock::new(),
            reopen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    /// Has the writing thread look.
    pub(super) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Takes what waits, buffer by buffer, and counts it; `spare` is an empty buffer to leave.
    pub(super) fn take(&self, mut spare: Vec<u8>, mut write: impl FnMut(&[u8])) -> Vec<u8> {
        for waiting in self.workers.iter().flatten() {
            spare.clear();
            let (records, dropped) = {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut waiting.bytes, &mut spare);
                (std::mem::take(&mut waiting.records), std::mem::take(&mut waiting.dropped))
            };
            self.metrics.records.add(records);
            self.metrics.dropped.add(dropped);
            if !spare.is_empty() {
                write(&spare);
            }
        }
        spare.clear();
        spare
    }
}

impl Pen {
    pub(crate) fn new(log: Arc<Log>, worker: usize) -> Self {
        Self { log, worker, generation: Cell::new(None), stamp: RefCell::default() }
    }

    /// Requests run by this configuration from now on.
    pub(crate) fn set_generation(&self, generation: Option<Generation>) {
        self.generation.set(generation.map(|generation| generation.0));
    }

    /// Whether a record is to be written: failures always are. `random` is asked only when that
    /// decides.
    pub(crate) fn wants(&self, failed: bool, random: impl FnOnce() -> u64) -> bool {
        let sample = self.log.sample_per_million;
        failed || sample >= 1_000_000 || (sample > 0 && falls_in(sample, random()))
    }

    /// Adds a record to those that wait, or drops it.
    pub(crate) fn write(&self, record: &Record<'_>) {
        let Some(buffers) = self.log.workers.get(self.worker) else { return };
        for waiting in buffers {
            // The writing thread has this one: the other is free.
            let Ok(mut waiting) = waiting.try_lock() else { continue };
            let before = waiting.bytes.len();
            if before >= MAX_WAITING {
                waiting.dropped += 1;
                return;
            }
            let mut stamp = self.stamp.borrow_mut();
            let time = stamp.at(SystemTime::now());
            record.put(self.log.format, time, self.generation.get(), &mut waiting.bytes);
            waiting.records += 1;
            let hurry = before < HURRY && waiting.bytes.len() >= HURRY;
            drop(waiting);
            if before == 0 || hurry {
                self.log.wake();
            }
            return;
        }
        self.log.metrics.dropped.add(1);
    }
}

impl Log {
    /// Nothing more comes: the writing thread writes what is there and ends.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake();
    }
}
