//! The text of a cell is the server's own text of the value, for every type and every odd value.

use std::collections::BTreeSet;

use serde_json::Value;

use super::inserted;
use crate::ordering::wait_visible;
use crate::support::types::{ARRAYS, Lab, PLAIN};
use crate::support::{Daemon, cluster, database};

#[test]
fn the_text_of_every_type_and_value_is_the_servers_own() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "");
    let lab = Lab::new(&cluster, "shop");
    let distinct: BTreeSet<_> = lab.cases.iter().map(|case| case.sql).collect();
    assert!(distinct.len() >= 60, "only {} types", distinct.len());
    let daemon = Daemon::serving(&[&url]);
    let rows = lab.fill();
    wait_visible(&daemon, rows);
    let events = daemon.everything("shop");
    assert_eq!(events.len() as u64, rows);
    let mut cells = 0;
    for table in [PLAIN, ARRAYS] {
        let texts = lab.texts(table);
        let events = inserted(&events, table);
        assert_eq!(events.len(), texts.len());
        for (event, texts) in events.iter().zip(&texts) {
            for (n, (case, text)) in lab.cases.iter().zip(texts).enumerate() {
                let got = &event["after"][format!("c{n}")];
                let wanted = text.clone().map_or(Value::Null, Value::String);
                assert_eq!(*got, wanted, "{} in row {} of {table}", case.sql, event["after"]["id"]);
                cells += u32::from(text.is_some());
            }
        }
    }
    eprintln!("{} types, {rows} rows, {cells} values compared", distinct.len());
}
