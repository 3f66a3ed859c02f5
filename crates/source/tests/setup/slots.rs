//! Slots that exist already, that somebody holds, that are lost, and that wait to be created.

use std::time::Duration;

use dbstreamd_model::Lsn;
use dbstreamd_source::postgres::setup::{self, SetupError};
use dbstreamd_source::postgres::{Connection, Origin, Replication, SessionKind};
use dbstreamd_throwaway::Cluster;

use crate::database::{Database, block_on, check, prepare, refused, says, warned};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

#[test]
fn slots_that_serve_something_else_are_refused_by_what_they_are() {
    let database = Database::with(TABLE);
    let slot = database.slot();
    let settings = database.settings();
    let drop_slot = || database.sql(&format!("SELECT pg_drop_replication_slot('{slot}')"));

    database.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"));
    says(&refused(&settings, "slot_not_usable"), &[&slot, "test_decoding", "pgoutput"]);
    drop_slot();
    database.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}')"));
    says(&refused(&settings, "slot_not_usable"), &[&slot, "physical"]);
    drop_slot();
    database.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', false, true)"));
    says(&refused(&settings, "slot_not_usable"), &[&slot, "two_phase"]);
    drop_slot();
    database
        .cluster
        .psql("postgres", &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
        .unwrap();
    says(&refused(&settings, "slot_not_usable"), &[&slot, "\"postgres\"", &database.name]);
    database.cluster.psql("postgres", &format!("SELECT pg_drop_replication_slot('{slot}')")).unwrap();

    let mut settings = database.settings();
    settings.slot = "No Slot".into();
    says(&refused(&settings, "slot_name"), &["No Slot", "a-z 0-9 _"]);
    settings.slot = slot;
    settings.create_slot = false;
    says(&refused(&settings, "slot_missing"), &["create_slot = true"]);
}

#[test]
fn a_slot_in_use_names_its_holder_and_is_worth_waiting_for() {
    let database = Database::with(TABLE);
    let settings = database.settings();
    prepare(&settings).unwrap();
    block_on(async {
        let mut other = settings.connect.clone();
        other.application_name = "the other reader".into();
        let holder = Connection::connect(&other, SessionKind::Replication).await.unwrap();
        let pid = holder.backend_pid().unwrap();
        let what = Replication {
            slot: settings.slot.clone(),
            publications: vec![settings.publication.clone()],
            binary: false,
            origin: Origin::Any,
        };
        let stream = holder.start_replication(&what, Lsn::ZERO).await.unwrap();
        let error = setup::prepare(&settings).await.unwrap_err();
        assert_eq!(error.code(), "slot_active");
        assert!(error.is_transient());
        says(&error.to_string(), &[&pid.to_string(), "the other reader", "127.0.0.1", "pg_terminate_backend"]);
        let report = setup::check(&settings).await;
        assert!(report.findings.iter().any(|finding| finding.code == "slot_active"), "{report}");
        drop(stream);
    });
    let free = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        prepare(&settings).ok()
    });
    assert!(free.is_some(), "the slot was not released");
}

#[test]
fn a_slot_whose_publication_is_gone_is_not_given_a_new_one() {
    let database = Database::with(TABLE);
    let mut settings = database.settings();
    prepare(&settings).unwrap();
    database.sql("INSERT INTO t VALUES (1); DROP PUBLICATION dbstreamd_shop; CREATE PUBLICATION late FOR TABLE t");
    says(&refused(&settings, "publication_gone"), &[&database.slot(), "dbstreamd_shop", "pg_drop_replication_slot"]);
    settings.create_publication = false;
    refused(&settings, "publication_gone");
    // Why: PostgreSQL reads the slot's changes with the catalog of their time.
    let changes = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL, 'proto_version', '1', 'publication_names', 'late')",
        database.slot()
    );
    let read = database.cluster.psql(&database.name, &changes);
    assert!(read.is_err() || read.is_ok_and(|count| count.trim() == "0"));
    database.sql(&format!("SELECT pg_drop_replication_slot('{}')", database.slot()));
    settings.create_publication = true;
    assert!(prepare(&settings).unwrap().created.slot);
}

#[test]
fn a_stream_that_has_run_before_gets_no_new_slot_for_the_one_it_lost() {
    let database = Database::with(TABLE);
    let settings = database.settings();
    prepare(&settings).unwrap();
    assert_eq!(block_on(setup::prepare_to_resume(&settings)).unwrap().created, setup::Created::default());
    database.sql(&format!("SELECT pg_drop_replication_slot('{}')", database.slot()));
    let error = block_on(setup::prepare_to_resume(&settings)).unwrap_err();
    assert_eq!((error.code(), error.is_transient()), ("slot_gone", false));
    says(&error.to_string(), &[&database.slot(), "lost", "on_lost_slot"]);
    assert_eq!(database.slots(), "");
}

#[test]
fn a_slot_that_lost_its_wal_is_refused_for_good() {
    let cluster = Cluster::builder().setting("max_slot_wal_keep_size", "1MB").setting("min_wal_size", "32MB");
    let database = Database::on_own(cluster, TABLE);
    let settings = database.settings();
    prepare(&settings).unwrap();
    for _ in 0..6 {
        database.sql("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t; SELECT pg_switch_wal(); CHECKPOINT");
    }
    let line = refused(&settings, "slot_invalidated");
    says(&line, &[&database.slot(), "pg_drop_replication_slot", "max_slot_wal_keep_size"]);
}

#[test]
fn slot_creation_names_the_transaction_it_waits_for_and_leaves_nothing_behind() {
    let cluster = Cluster::builder().setting("max_prepared_transactions", "3");
    let database = Database::on_own(cluster, TABLE);
    let mut settings = database.settings();
    settings.slot_timeout = Duration::from_secs(1);

    database.sql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'stuck ''one'''");
    let error = prepare(&settings).unwrap_err();
    says(
        &error.to_string(),
        &["prepared transaction \"stuck 'one'\"", &database.name, "ROLLBACK PREPARED 'stuck ''one'''", "slot_timeout"],
    );
    assert!(matches!(error, SetupError::SlotBlocked { .. }) && error.is_transient());
    assert_eq!(database.slots(), "");
    database.sql("ROLLBACK PREPARED 'stuck ''one'''");

    block_on(async {
        let mut blocker = Connection::connect(&settings.connect, SessionKind::Ordinary).await.unwrap();
        blocker.simple_query("BEGIN; INSERT INTO public.t VALUES (2)").await.unwrap();
        let pid = blocker.backend_pid().unwrap();
        let error = setup::prepare(&settings).await.unwrap_err();
        assert_eq!(error.code(), "slot_blocked");
        says(
            &error.to_string(),
            &[&format!("pid {pid} "), "idle in transaction", &format!("pg_terminate_backend({pid})")],
        );
        blocker.close().await;
    });
    assert_eq!(database.slots(), "");
    assert!(prepare(&settings).unwrap().created.slot);
}

#[test]
fn a_role_s_statement_timeout_does_not_end_slot_creation_early() {
    let cluster = Cluster::builder().setting("max_prepared_transactions", "3");
    let database = Database::on_own(cluster, TABLE);
    database.sql("ALTER ROLE postgres SET statement_timeout = '100ms'; ALTER ROLE postgres SET lock_timeout = '100ms'");
    let settings = database.settings();
    database.sql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'slow'");
    let prepared = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| prepare(&settings));
        // Until the creation waits for the transaction, for longer than those timeouts.
        for _ in 0..400 {
            std::thread::sleep(Duration::from_millis(25));
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'create_logical' AND clock_timestamp() - query_start > '400ms'";
            if database.sql(waits) == "1" {
                break;
            }
        }
        database.sql("COMMIT PREPARED 'slow'");
        waiting.join().unwrap()
    });
    assert!(prepared.unwrap().created.slot);
}

#[test]
fn a_server_without_a_free_slot_says_which_ones_nobody_reads() {
    let cluster = Cluster::builder().setting("max_replication_slots", "1");
    let database = Database::on_own(cluster, TABLE);
    database.sql("SELECT pg_create_physical_replication_slot('forgotten', true)");
    let line = refused(&database.settings(), "max_replication_slots");
    says(&line, &["max_replication_slots = 1", "forgotten", "MB of WAL", "restart"]);
}

#[test]
fn a_server_without_a_free_walsender_says_so() {
    let cluster = Cluster::builder().setting("max_wal_senders", "0");
    let database = Database::on_own(cluster, TABLE);
    says(&refused(&database.settings(), "max_wal_senders"), &["max_wal_senders = 0", "restart"]);
}

#[test]
fn old_transactions_are_pointed_out_before_they_hurt() {
    let cluster =
        Cluster::builder().setting("max_prepared_transactions", "3").setting("max_slot_wal_keep_size", "100MB");
    let database = Database::on_own(cluster, TABLE);
    // Nothing is older than what a role may not see, so its age is not the point here.
    database.sql(
        "CREATE ROLE app LOGIN REPLICATION PASSWORD 'secret'; GRANT CREATE ON DATABASE db1 TO app"
            .replace("db1", &database.name)
            .as_str(),
    );
    let settings = database.settings_as("app");
    block_on(async {
        let mut blocker = Connection::connect(&database.settings().connect, SessionKind::Ordinary).await.unwrap();
        blocker.simple_query("BEGIN; INSERT INTO public.t VALUES (2)").await.unwrap();
        let report = setup::check(&settings).await;
        says(&warned(&report, "open_transactions"), &[&format!("pid {}", blocker.backend_pid().unwrap())]);
    });
    let report = check(&settings);
    says(&crate::database::finding(&report, "max_slot_wal_keep_size").message, &["100 MB"]);
}

#[test]
fn an_insurance_slot_is_reported_whether_it_is_wanted_missing_left_over_or_in_danger() {
    let cluster = Cluster::builder().setting("max_slot_wal_keep_size", "100MB");
    let database = Database::on_own(cluster, TABLE);
    let mut settings = database.settings();
    prepare(&settings).unwrap();
    let finding = |settings: &_| {
        let report = check(settings);
        assert!(!report.has_errors(), "insurance keeps no stream from running: {report}");
        report.findings.into_iter().filter(|finding| finding.code == "wal_insurance").collect::<Vec<_>>()
    };
    assert_eq!(finding(&settings), []);
    settings.wal_insurance = Some(80 << 20);
    let missing = finding(&settings);
    assert_eq!(missing.len(), 1);
    says(&missing[0].message, &["does not exist yet", "80 MB"]);

    let name = format!("{}_insurance", database.slot());
    database.sql(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    says(&finding(&settings)[0].message, &["keeps 0 MB", "80 MB"]);
    settings.wal_insurance = Some(1 << 30);
    let danger = check(&settings);
    says(
        &warned(&danger, "wal_insurance"),
        &["100 MB", "1024 MB", "ALTER SYSTEM SET max_slot_wal_keep_size = '2048MB'"],
    );
    settings.wal_insurance = None;
    let drop = format!("SELECT pg_drop_replication_slot('{name}')");
    says(&warned(&check(&settings), "wal_insurance"), &["left over", &drop]);

    database.sql(&drop);
    database.sql(&format!("SELECT pg_create_physical_replication_slot('{name}')"));
    settings.wal_insurance = Some(80 << 20);
    says(&warned(&check(&settings), "wal_insurance"), &["not one of pgoutput", &drop]);
}
