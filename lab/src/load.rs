//! A steady load of the lab's own, so that a benchmark can be run as if the machine had other work too.
//!
//! It is part of the lab's process, so it does not count as somebody else's.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{LabError, io};

/// A thread works for its share of each such stretch of time, then sleeps: coarser than a scheduler's slice, so that others
/// have to wait for it.
const PERIOD: Duration = Duration::from_millis(20);

/// Threads that do nothing useful until dropped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Keeps that many cores busy, as long as nobody else wants them.
    pub(crate) fn start(cores: f64) -> Result<Self, LabError> {
        let mut load = Self { stop: Arc::default(), threads: Vec::new() };
        let mut left = cores;
        while left > 0.0 {
            let (stop, share) = (Arc::clone(&load.stop), left.min(1.0));
            let thread = std::thread::Builder::new().name("load".into()).spawn(move || work(&stop, share));
            load.threads.push(thread.map_err(io("a thread for the load"))?);
            left -= share;
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic, and if it did the load would only be missing.
            let _ = thread.join();
        }
    }
}

fn work(stop: &AtomicBool, share: f64) {
    while !stop.load(Relaxed) {
        let began = Instant::now();
        while began.elapsed() < PERIOD.mul_f64(share) {
            std::hint::spin_loop();
        }
        std::thread::sleep(PERIOD.saturating_sub(began.elapsed()));
    }
}

/// Cores to keep busy.
///
/// # Errors
/// What is no number of cores.
pub(crate) fn cores(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(cores) if (0.0..=64.0).contains(&cores) => Ok(cores),
        _ => Err("a number of cores from 0 to 64, such as 0.5".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::Snapshot;

    #[test]
    fn it_uses_the_processor_until_it_is_dropped() {
        let spent = || Snapshot::take().unwrap().tree_seconds(std::process::id());
        let (before, load) = (spent(), Load::start(1.5).unwrap());
        assert_eq!(load.threads.len(), 2);
        let started = Instant::now();
        while spent() - before < 0.2 {
            assert!(started.elapsed() < Duration::from_secs(60), "nothing works");
            std::thread::sleep(PERIOD);
        }
        drop(load);
        assert!(Load::start(0.0).unwrap().threads.is_empty());
    }

    #[test]
    fn only_numbers_of_cores_are_taken() {
        assert_eq!(cores("0.65"), Ok(0.65));
        for text in ["-1", "nan", "65", "inf", "much"] {
            assert!(cores(text).is_err(), "{text}");
        }
    }
}
