//! How much all subscribers together may have produced and not yet taken: one budget for the whole process.
//!
//! A subscriber asks for room before it produces a response and gives it back once its connection has taken the response.
//! While the budget lasts it gets room for whole batches. When it is used up, whoever has nothing on its way gets a small
//! piece all the same, so that clients which do not read slow the others down and never stop them: what is kept is at most
//! the budget and one such piece for each subscriber. Chunks that subscribers read from disk have a budget of their own, in the log.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room that one response asks for: what a chunk of the log is encoded to, mostly.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// What a subscriber that has nothing on its way gets in any case: enough for some ordinary rows.
pub(crate) const FLOOR_BYTES: usize = 16 * 1024;

/// Bytes in one token, as a semaphore counts in `u32` per request.
const TOKEN_BYTES: usize = 512;

/// The budget.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryBudget {
    pool: Arc<Semaphore>,
    limit: usize,
}

/// Room taken out of the budget; given back on drop.
#[derive(Debug)]
pub(crate) struct Share(OwnedSemaphorePermit);

impl DeliveryBudget {
    /// A budget of this many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let tokens = (bytes / TOKEN_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { pool: Arc::new(Semaphore::new(tokens)), limit: tokens.saturating_mul(TOKEN_BYTES) }
    }

    /// Room for this many bytes, if there is any. Nobody waits for it: who gets none goes on in small pieces.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        let tokens = u32::try_from(bytes.div_ceil(TOKEN_BYTES)).ok()?;
        Arc::clone(&self.pool).try_acquire_many_owned(tokens).ok().map(Share)
    }

    /// Bytes taken and not given back.
    pub(crate) fn used(&self) -> usize {
        self.limit.saturating_sub(self.pool.available_permits().saturating_mul(TOKEN_BYTES))
    }
}

impl Share {
    /// Gives back what is not needed for `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(bytes.div_ceil(TOKEN_BYTES));
        drop(self.0.split(surplus));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_whole_or_in_part() {
        let budget = DeliveryBudget::new(300 * 1024);
        let mut share = budget.take(BATCH_BYTES).unwrap();
        assert_eq!(budget.used(), BATCH_BYTES);
        assert!(budget.take(BATCH_BYTES).is_none(), "there is not as much left");
        share.shrink_to(1000);
        assert_eq!(budget.used(), 1024);
        drop(share);
        assert_eq!(budget.used(), 0);
    }
}
