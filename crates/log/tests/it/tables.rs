//! What is known of tables: durable with the end of the unit that told it, and not before.

use dbstreamd_log::{Divergence, DivergenceReason, Log, TableBinding, TableChange, TableName};
use dbstreamd_model::{Lsn, Offset, SchemaId, Timestamp};

use crate::support::*;

fn rewritten(offset: Offset) -> TableChange {
    TableChange::Diverged(Divergence {
        reason: DivergenceReason::Rewritten,
        detail: "all of it".into(),
        offset,
        lsn: Lsn(7),
        noticed_at: Timestamp(TIME),
    })
}

fn diverged(log: &Log) -> Vec<String> {
    let stream = log.stream_named("shop").unwrap();
    assert_eq!(log.diverged_count(stream), log.diverged(stream).len());
    log.diverged(stream).into_iter().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn what_is_known_of_a_table_is_durable_with_the_end_of_its_unit_and_forgotten_with_a_unit_that_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let orders = TableName::new("shop", "orders");
    let items = TableName::new("shop", "items");
    let bound = TableBinding { relation: 4711, schema: SchemaId(1) };
    runtime().block_on(async {
        let log = Log::open(small(dir.path())).unwrap();
        let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
        let mut writer = Writer::begin(&log, stream).await;
        let unit = writer.begin_unit(TIME, &bodies(50, 100));
        writer.appender.table(orders.clone(), TableChange::Bound(bound));
        writer.appender.table(orders.clone(), rewritten(writer.appender.next_offset()));
        writer.appender.pump(dbstreamd_log::Pump::All).unwrap();
        within(writer.appender.writer_idle()).await;
        assert!(diverged(&log).is_empty(), "its unit has not ended");
        writer.end_unit(unit);
        writer.settle().await;
        assert_eq!(diverged(&log), ["shop.orders"]);

        // A unit whose end never comes leaves nothing behind.
        let lost = writer.begin_unit(TIME, &bodies(50, 100));
        writer.appender.table(items.clone(), rewritten(Offset(60)));
        writer.appender.table(orders.clone(), TableChange::Gone);
        writer.settle().await;
        drop((writer, lost));
        log.close().unwrap();

        let log = Log::open(small(dir.path())).unwrap();
        let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
        let writer = Writer::begin(&log, stream).await;
        assert_eq!(writer.appender.tables(), [(orders.clone(), bound)]);
        let [(_, kept)] = log.diverged(stream).try_into().unwrap();
        assert_eq!((kept.offset, kept.reason), (Offset(51), DivergenceReason::Rewritten));

        assert!(!log.clear_diverged(stream, items.clone()).await.unwrap(), "nothing was wrong with it");
        assert!(log.clear_diverged(stream, orders.clone()).await.unwrap());
        assert!(diverged(&log).is_empty());
        drop(writer);
        log.close().unwrap();
        let log = Log::open(small(dir.path())).unwrap();
        assert!(diverged(&log).is_empty(), "a cleared table stays cleared");
        log.close().unwrap();
    });
}
