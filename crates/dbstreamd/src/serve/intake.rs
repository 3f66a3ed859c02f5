//! Threads of their own for what reads the databases.
//!
//! Thousands of subscribers can keep every thread that serves them busy. A stream whose task waited among theirs would be read,
//! made durable and confirmed late, for everybody (docs/adr/0008-threads-that-read.md). Threads that mostly sleep get a processor from the
//! kernel when they wake.

use tokio::runtime::{Builder, Handle, Runtime};

/// The threads; what still runs there is abandoned when it is dropped.
pub(super) struct Intake {
    handle: Handle,
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl Intake {
    /// # Errors
    /// When the operating system gives no threads.
    pub(super) fn new(threads: usize, blocking_max: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("intake")
            .worker_threads(threads.max(1))
            .max_blocking_threads(blocking_max.max(1))
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where to spawn.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Without waiting, which a thread that runs tasks must not do.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
