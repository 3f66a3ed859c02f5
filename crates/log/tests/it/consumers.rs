//! Consumers' committed offsets.

use dbstreamd_log::{Log, LogError, LogOptions, Rewind, StartAt};
use dbstreamd_model::{ConsumerName, Offset};

use crate::support::*;

#[test]
fn a_commit_is_durable_goes_no_further_than_visible_and_back_only_when_meant() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let audit: ConsumerName = "audit".parse().unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(10, 10));
        writer.settle().await;
        let commit = |offset, rewind| within(log.commit_offset(stream, &audit, Offset(offset), rewind));
        assert_eq!(log.consumer(stream, &audit), None);
        assert_eq!(commit(4, Rewind::Refuse).await.unwrap().get(), Offset(4));
        let past = commit(11, Rewind::Allow).await;
        assert!(matches!(past, Err(LogError::CommitPastEnd { requested: Offset(11), visible: Offset(10) })));
        assert!(matches!(commit(3, Rewind::Refuse).await, Err(LogError::CommitRewinds { committed: Offset(4), .. })));
        assert_eq!(commit(3, Rewind::Ignore).await.unwrap().get(), Offset(4));
        assert_eq!(log.consumer(stream, &audit).unwrap().committed, Offset(4));
        assert_eq!(commit(3, Rewind::Allow).await.unwrap().get(), Offset(3));
        assert_eq!(commit(3, Rewind::Refuse).await.unwrap().get(), Offset(3), "again is no rewind");
    });
    log.close().unwrap();

    let log = Log::open(small(dir.path())).unwrap();
    let records = log.consumers(Some(stream));
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].name.as_str(), records[0].committed), ("audit", Offset(3)));
    assert!(records[0].committed_at.0 > TIME);
}

#[test]
fn many_commits_at_once_share_writes_and_the_last_one_holds() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(small(dir.path())).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        writer.unit(TIME, &bodies(100, 1));
        writer.settle().await;
        let before = log.metrics().flushes.get();
        let tasks: Vec<_> = (0..1000_u64)
            .map(|n| {
                let log = log.clone();
                tokio::spawn(async move {
                    let name = format!("c{}", n % 10).parse().unwrap();
                    log.commit_offset(stream, &name, Offset(n / 10 + 1), Rewind::Ignore).await.unwrap()
                })
            })
            .collect();
        for task in tasks {
            within(task).await.unwrap();
        }
        let writes = log.metrics().flushes.get() - before;
        assert!(writes < 500, "{writes} writes for 1000 commits");
        assert!(log.consumers(None).iter().all(|consumer| consumer.committed == Offset(100)));
        assert_eq!(log.consumers(None).len(), 10);
    });
    // Reading is untouched by it.
    runtime().block_on(async {
        assert_eq!(read_all(&log, stream, StartAt::Offset(Offset(100))).await.unwrap().len(), 1);
    });
}

#[test]
fn a_stream_takes_only_so_many_names_and_goes_on_serving_those_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let options = || LogOptions { consumers_per_stream_max: 3, ..small(dir.path()) };
    let log = Log::open(options()).unwrap();
    let [shop, other] = ["shop", "other"].map(|name| log.open_stream(&name.parse().unwrap()).unwrap());
    let commit = async |log: &Log, stream, name: &str, offset| {
        within(log.commit_offset(stream, &name.parse().unwrap(), Offset(offset), Rewind::Refuse)).await
    };
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, shop).await;
        writer.unit(TIME, &bodies(10, 10));
        writer.settle().await;
        // Many at once come in the same group, and count all the same.
        let tasks: Vec<_> = (0..20)
            .map(|n| {
                let (log, name) = (log.clone(), format!("c{n}").parse().unwrap());
                tokio::spawn(async move { log.commit_offset(shop, &name, Offset(1), Rewind::Refuse).await })
            })
            .collect();
        let mut taken = 0;
        for task in tasks {
            match within(task).await.unwrap() {
                Ok(_) => taken += 1,
                Err(error) => assert!(matches!(error, LogError::TooManyConsumers { max: 3 }), "{error}"),
            }
        }
        assert_eq!((taken, log.consumers(Some(shop)).len()), (3, 3));
        commit(&log, other, "another-stream", 0).await.unwrap();
    });
    log.close().unwrap();

    let log = Log::open(options()).unwrap();
    runtime().block_on(async {
        let known = log.consumers(Some(shop)).pop().unwrap().name;
        commit(&log, shop, known.as_str(), 5).await.unwrap();
        let refused = commit(&log, shop, "one-more", 5).await;
        assert!(matches!(refused, Err(LogError::TooManyConsumers { max: 3 })));
    });
}

#[test]
fn stored_settings_come_back_whole_and_a_deleted_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let changes = |pairs: &[(&str, Option<&str>)]| {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.map(str::to_owned))).collect()
    };
    let log = Log::open(small(dir.path())).unwrap();
    let store = |pairs: &[(&str, Option<&str>)]| runtime().block_on(log.store_settings(changes(pairs)));
    assert!(log.settings().is_empty());
    store(&[("a", Some("7d")), ("b", Some("größer, \"so\""))]).unwrap();
    store(&[("a", None), ("c", Some(""))]).unwrap();
    let wanted = log.settings();
    assert_eq!(
        wanted.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>(),
        [("b", "größer, \"so\""), ("c", "")]
    );
    let endless = "x".repeat(dbstreamd_log::SETTING_VALUE_BYTES_MAX + 1);
    assert!(store(&[("d", Some("1")), ("e", Some(&endless))]).is_err());
    drop(log);
    assert_eq!(Log::open(small(dir.path())).unwrap().settings(), wanted, "all or none, also after a restart");
}
