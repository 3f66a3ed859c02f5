use dbstreamd_model::{ColumnFacts, DdlDivergence, ReplicaIdentity};

use super::*;

fn column(name: &str, type_name: &str, type_modifier: i32) -> Column {
    Column {
        name: name.into(),
        type_name: type_name.into(),
        type_oid: 1,
        type_modifier,
        in_identity: false,
        description: None,
    }
}

fn schema(table: &str, columns: &[(&str, &str, i32)]) -> TableSchema {
    TableSchema {
        namespace: "s".into(),
        table: table.into(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.iter().map(|(name, type_name, modifier)| column(name, type_name, *modifier)).collect(),
    }
}

fn facts(table: &str, oid: u32, columns: &[&str]) -> TableFacts {
    let column =
        |name: &&str| ColumnFacts { name: (*name).into(), type_oid: 1, type_modifier: -1, ..Default::default() };
    TableFacts {
        oid,
        schema: "s".into(),
        name: table.into(),
        columns: columns.iter().map(column).collect(),
        ..Default::default()
    }
}

fn tables(tables: Vec<TableFacts>) -> DdlDocument {
    DdlDocument { tables, ..Default::default() }
}

fn dropped(table: &str, oid: u32) -> DdlDocument {
    let object = DdlObject { kind: "table".into(), schema: "s".into(), name: table.into(), oid, ..Default::default() };
    DdlDocument { dropped: vec![object], ..Default::default() }
}

/// Announces a table; which reason follows.
fn announce(
    ledger: &mut Ledger,
    relation: u32,
    id: u32,
    now: &TableSchema,
    before: &TableSchema,
) -> Option<DivergenceReason> {
    let conclusions = ledger.announced(relation, now, SchemaId(id), |_| Some(before));
    conclusions.diverged.first().map(|diverged| diverged.reason)
}

fn tell(ledger: &mut Ledger, document: &DdlDocument) -> Vec<(String, DivergenceReason)> {
    let conclusions = ledger.told(document, |_| true);
    conclusions.diverged.iter().map(|diverged| (diverged.table.to_string(), diverged.reason)).collect()
}

#[test]
fn a_name_that_another_relation_has_is_noticed_unless_the_one_before_was_dropped() {
    let orders = schema("orders", &[("id", "int4", -1)]);
    let mut ledger = Ledger::default();
    assert_eq!(announce(&mut ledger, 1, 1, &orders, &orders), None);
    assert_eq!(announce(&mut ledger, 1, 1, &orders, &orders), None);
    assert_eq!(announce(&mut ledger, 2, 1, &orders, &orders), Some(DivergenceReason::NameReused));
    assert_eq!(announce(&mut ledger, 2, 1, &orders, &orders), None, "once is enough");

    assert!(tell(&mut ledger, &dropped("orders", 2)).is_empty());
    assert_eq!(announce(&mut ledger, 3, 1, &orders, &orders), None);

    // A swap: the old one moves away, the new one takes its name.
    assert!(tell(&mut ledger, &tables(vec![facts("orders_old", 3, &["id"])])).is_empty());
    let swapped = tell(&mut ledger, &tables(vec![facts("orders", 4, &["id"])]));
    assert_eq!(swapped, [("s.orders".to_owned(), DivergenceReason::NameReused)]);
    assert_eq!(announce(&mut ledger, 4, 1, &orders, &orders), None, "the document has said so");
}

#[test]
fn the_type_of_a_column_is_compared_with_the_version_before_unless_a_document_told_of_the_change() {
    let before = schema("orders", &[("id", "int4", -1), ("v", "varchar", 14)]);
    let check = |now: &[(&str, &str, i32)]| {
        let mut ledger = Ledger::default();
        announce(&mut ledger, 1, 1, &before, &before);
        announce(&mut ledger, 1, 2, &schema("orders", now), &before)
    };
    assert_eq!(check(&[("id", "int8", -1), ("v", "varchar", 14)]), Some(DivergenceReason::TypeChanged));
    assert_eq!(check(&[("id", "int4", -1), ("v", "varchar", 10)]), Some(DivergenceReason::TypeChanged));
    for harmless in [("v", "varchar", 20), ("v", "varchar", -1), ("v", "text", -1), ("other", "int8", -1)] {
        assert_eq!(check(&[("id", "int4", -1), harmless]), None, "{harmless:?}");
    }
    let mut ledger = Ledger::default();
    announce(&mut ledger, 1, 1, &before, &before);
    assert!(tell(&mut ledger, &tables(vec![facts("orders", 1, &["id", "v"])])).is_empty());
    let now = schema("orders", &[("id", "int8", -1)]);
    assert_eq!(announce(&mut ledger, 1, 2, &now, &before), None);
    let then = schema("orders", &[("id", "text", -1)]);
    assert_eq!(announce(&mut ledger, 1, 3, &then, &now), Some(DivergenceReason::TypeChanged));
}

#[test]
fn a_numeric_column_keeps_its_values_when_it_only_gets_room_before_the_point() {
    let numeric = |precision: i32, scale: i32| column("n", "numeric", ((precision << 16) | scale) + 4);
    assert!(!may_convert(&numeric(10, 2), &numeric(12, 2)));
    assert!(may_convert(&numeric(10, 2), &numeric(12, 1)));
    assert!(may_convert(&numeric(10, 2), &numeric(9, 2)));
    assert!(!may_convert(&numeric(10, 2), &column("n", "numeric", -1)));
    assert!(may_convert(&column("n", "numeric", -1), &numeric(10, 2)));
}

#[test]
fn divergences_of_other_publications_are_none_of_ours() {
    let divergence = |publications: &[&str]| DdlDivergence {
        schema: "s".into(),
        table: "t".into(),
        reason: "rewritten".into(),
        publications: publications.iter().map(|&name| name.into()).collect(),
        ..Default::default()
    };
    let diverged = vec![divergence(&["other"]), divergence(&["ours", "other"])];
    let document = DdlDocument { diverged, ..Default::default() };
    let conclusions = Ledger::default().told(&document, |names| names.iter().any(|name| name == "ours"));
    assert_eq!(conclusions.diverged.len(), 1);
}

#[test]
fn facts_are_those_of_the_table_as_it_is_announced_and_the_oldest_are_given_up() {
    let mut ledger = Ledger::default();
    ledger.remember(&tables(vec![facts("orders", 1, &["id", "not published"])]), Lsn(5));
    let recorded = ledger.facts(1, &schema("orders", &[("id", "int4", -1)])).unwrap();
    assert_eq!((recorded.as_of, recorded.origin), (Lsn(5), FactsOrigin::Ddl));
    assert!(ledger.facts(1, &schema("orders", &[("other", "int4", -1)])).is_none());
    assert!(ledger.facts(2, &schema("orders", &[("id", "int4", -1)])).is_none());
    for oid in 2..=u32::try_from(FACTS_KEPT_MAX).unwrap() + 1 {
        ledger.remember(&tables(vec![facts("t", oid, &[])]), Lsn(6));
    }
    assert!(ledger.facts(1, &schema("orders", &[("id", "int4", -1)])).is_none());
    assert_eq!((ledger.facts.len(), ledger.order.len()), (FACTS_KEPT_MAX, FACTS_KEPT_MAX));
}

#[test]
fn a_table_keeps_what_is_wrong_with_it_under_its_new_name() {
    let orders = schema("orders", &[("id", "int4", -1)]);
    let mut ledger = Ledger::default();
    announce(&mut ledger, 1, 1, &orders, &orders);
    let conclusions = ledger.told(&tables(vec![facts("sales", 1, &["id"])]), |_| true);
    assert_eq!(conclusions.renamed, [(TableName::new("s", "orders"), TableName::new("s", "sales"))]);
    assert!(ledger.told(&tables(vec![facts("unknown", 9, &["id"])]), |_| true).changes.is_empty());
}
