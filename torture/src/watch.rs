//! Looks at what must hold at every moment: the slot is never ahead of what the daemon says it may forget.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::daemon::ask_stream;
use crate::oracle::{Violation, Violations};
use crate::server::Server;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(300);

/// A running watch; ends when dropped.
pub(crate) struct Watch {
    found: Arc<Mutex<Violations>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(server: Server, grpc: String) -> Self {
        let found = Arc::new(Mutex::new(Violations::default()));
        let into = found.clone();
        let task = tokio::spawn(async move {
            let mut confirmed_before = 0;
            loop {
                tokio::time::sleep(INTERVAL).await;
                // The slot first: what the daemon says later can only be more.
                let Ok(Some(slot)) = server.slot().await else { continue };
                let Some(stream) = ask_stream(&grpc).await else { continue };
                let mut found = into.lock().unwrap_or_else(PoisonError::into_inner);
                let confirmed = stream.confirmed_through_lsn;
                if confirmed < slot.confirmed {
                    let detail = format!("the slot has {:X}, the daemon says {confirmed:X}", slot.confirmed);
                    found.add("confirmed-covers-slot", detail);
                }
                if confirmed < confirmed_before {
                    found.add("confirmed-never-back", format!("from {confirmed_before:X} to {confirmed:X}"));
                }
                confirmed_before = confirmed;
                let ordered = stream.appended_offset >= stream.durable_offset
                    && stream.durable_offset >= stream.visible_offset
                    && stream.visible_offset + 1 >= stream.trim_point;
                if !ordered {
                    found.add("watermark-order", format!("{stream:?}"));
                }
            }
        });
        Self { found, task }
    }

    pub(crate) fn finish(self) -> Vec<Violation> {
        self.task.abort();
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner)).into_told()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
