//! What is used now, as far as anybody counts it, next to the budget: for `/health` and for metrics.

use dbstreamd_log::{CreditWindow, Log};
use serde_json::{Value, json};

use super::{Budget, Component, DISK_READ_BYTES};
use crate::delivery::DeliveryBudget;
use crate::process;

/// The budget, and where to ask what is used of it.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) budget: Budget,
    pub(crate) window: CreditWindow,
    pub(crate) delivery: DeliveryBudget,
}

/// One component at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) component: Component,
    pub(crate) budget: u64,
    /// None where nobody counts.
    pub(crate) used: Option<u64>,
}

impl Live {
    /// All components, in the order of the table.
    pub(crate) fn usage(&self, log: &Log) -> Vec<Usage> {
        let used = log.memory();
        let rows = self.budget.rows.iter().map(|row| {
            let used = match row.component {
                Component::BlockCache => Some(used.block_cache as u64),
                Component::Memtables => Some(used.memtables as u64),
                Component::Tail => Some(used.tail as u64),
                Component::DiskReads => Some(used.disk_reads as u64 * DISK_READ_BYTES),
                Component::CreditWindow => Some(self.window.used() as u64),
                Component::Delivery => Some((self.delivery.used() + used.read_ahead) as u64),
                _ => None,
            };
            Usage { component: row.component, budget: row.bytes, used }
        });
        rows.collect()
    }

    /// The table as JSON, for `/health`.
    pub(crate) fn document(&self, log: &Log) -> Value {
        let mut document = self.budget.document();
        let components = self.usage(log).into_iter().zip(&self.budget.rows).map(|(usage, row)| {
            json!({
                "component": usage.component.name(),
                "budget_bytes": usage.budget,
                "used_bytes": usage.used,
                "setting": row.component.setting(),
            })
        });
        if let Value::Object(document) = &mut document {
            document.insert("resident_bytes".to_owned(), process::usage().resident_bytes.into());
            document.insert("components".to_owned(), components.collect());
        }
        document
    }
}

impl Budget {
    /// As JSON, without what is used.
    pub(crate) fn document(&self) -> Value {
        let components = self.rows.iter().map(|row| {
            json!({
                "component": row.component.name(),
                "budget_bytes": row.bytes,
                "setting": row.component.setting(),
                "what": row.what,
            })
        });
        json!({
            "profile": self.profile.name(),
            "limit_bytes": self.limit.as_ref().map(|limit| limit.bytes),
            "limit": self.limit.as_ref().map(ToString::to_string),
            "sum_bytes": self.sum(),
            "needed_bytes": self.needed(),
            "fits": self.fits(),
            "components": components.collect::<Vec<_>>(),
        })
    }
}
