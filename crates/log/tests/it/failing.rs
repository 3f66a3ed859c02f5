//! A disk that refuses to write: nothing is acknowledged any more, everyone learns why, and what was visible stays.
//!
//! A full disk is imitated by a limit on the size of files that a child process may write, and lifts again.

use std::path::Path;
use std::process::{Command, Stdio};

use dbstreamd_log::{CreditWindow, Log, LogError, LogOptions, Pump, Rewind, StartAt};

use dbstreamd_model::{Offset, StreamId};

use crate::support::*;

const CHILD_DIR: &str = "DBSTREAMD_LOG_FAILING_DIR";
const CHILD_RECOVERS: &str = "DBSTREAMD_LOG_FAILING_RECOVERS";
/// A file larger than the room there is, outside the log: linked into it, it stands for a write-ahead log that is too large
/// to be written to table files now.
const CHILD_BALLAST: &str = "DBSTREAMD_LOG_FAILING_BALLAST";
/// Bytes; less than what the log probes the disk with.
const LIMIT: u64 = 600_000;

fn options(dir: &Path) -> LogOptions {
    LogOptions { tail_ring_bytes: 0, ..small(dir) }
}

/// Not a test by itself: what the test below runs as another process.
#[test]
fn child_that_writes_until_the_disk_refuses() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    limit_files(Some(LIMIT));
    let log = Log::open(options(Path::new(&dir))).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let window = CreditWindow::new(1 << 20);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
        // A consumer that acknowledges all the time: the failure comes in the middle of a commit.
        let racing = tokio::spawn(commit_until_refused(log.clone(), stream));
        let mut state = 1_u64;
        let error = loop {
            let noise = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            };
            let body: Vec<u8> = (0..700).map(noise).collect();
            writer.unit(TIME, &[body]);
            writer.appender.add_credit(within(window.acquire(1000)).await);
            if let Err(error) = writer.appender.pump(Pump::Now) {
                break error;
            }
            within(writer.appender.writer_idle()).await;
        };
        assert!(matches!(error, LogError::Stopped(_)), "{error}");
        assert!(error.to_string().starts_with("the log stopped writing: "), "{error}");
        assert!(log.failure().is_some());
        let (acknowledged, refused) = within(racing).await.unwrap();
        assert!(matches!(refused, LogError::Stopped(_)), "{refused}");
        let racer = || log.consumer(stream, &RACER.parse().unwrap()).unwrap().committed;
        assert_eq!(racer(), acknowledged, "what was refused is not shown");
        let marks = log.watermarks(stream).unwrap();
        let audit = "audit".parse().unwrap();
        let commit = log.commit_offset(stream, &audit, marks.visible, Rewind::Refuse);
        assert!(matches!(within(commit).await, Err(LogError::Stopped(_))));
        assert!(matches!(within(writer.appender.begin_session()).await, Err(LogError::Stopped(_))));
        assert!(matches!(log.open_stream(&"other".parse().unwrap()), Err(LogError::Stopped(_))));
        assert_eq!(window.used(), 0, "who waits for credit wakes up and learns of the failure");
        let seen = read_all(&log, stream, StartAt::Earliest).await.unwrap();
        assert_eq!(seen, writer.events[..seen.len()]);
        assert_eq!(seen.len() as u64, marks.visible.0);
        println!("visible {} {}", marks.visible.0, marks.confirmed_through.0);
        if std::env::var_os(CHILD_RECOVERS).is_none() {
            return;
        }

        let mut follower = log.reader(stream, StartAt::Offset(marks.visible.next())).unwrap();
        limit_files(None);
        wait_for_room(&log, stream, Path::new(&dir)).await;
        let begun = tokio::time::Instant::now();
        while log.failure().is_some() {
            assert!(begun.elapsed() < PATIENCE, "it never writes again: {:?}", log.failure());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        // The disk may have got what could not be acknowledged, and no less than what was.
        let found = racer();
        assert!(found >= acknowledged && found <= log.watermarks(stream).unwrap().visible, "{found}");
        // A session of before knows nothing of it, and must not go on as if nothing had been lost.
        writer.unit(TIME, &[b"behind what was lost".to_vec()]);
        assert!(matches!(writer.appender.pump(Pump::Now), Err(LogError::Interrupted)));
        writer.appender.idle(dbstreamd_model::Lsn(u64::MAX), true);
        let resume = within(writer.appender.begin_session()).await.unwrap();
        let found = log.watermarks(stream).unwrap();
        assert!(found.visible >= marks.visible && found.confirmed_through >= marks.confirmed_through);
        assert!(found.confirmed_through.0 < u64::MAX, "nothing of the broken session counts");
        assert_eq!(resume.next_offset, found.visible.next());
        let kept = writer.events[..usize::try_from(found.visible.0).unwrap()].to_vec();
        drop(writer);
        let mut writer = Writer::begin(&log, stream).await;
        writer.events.clone_from(&kept);
        for n in 0..2000 {
            writer.unit(TIME, &bodies(1, 300 + n % 50));
        }
        writer.settle().await;
        let visible = log.watermarks(stream).unwrap().visible;
        assert_eq!(visible, found.visible.advance(2000));
        assert_eq!(read_all(&log, stream, StartAt::Earliest).await.unwrap(), writer.events);
        let followed = follow(&mut follower, visible).await.unwrap();
        assert_eq!(followed, writer.events[usize::try_from(marks.visible.0).unwrap()..]);
        within(log.commit_offset(stream, &audit, visible, Rewind::Refuse)).await.unwrap();
        println!("visible {} {}", visible.0, 0);
    });
    let recovers = std::env::var_os(CHILD_RECOVERS).is_some();
    match log.close() {
        Ok(()) => assert!(recovers),
        Err(error) => assert!(!recovers && matches!(error, LogError::Stopped(_)), "{error}"),
    }
}

/// The consumer that acknowledges all the time.
const RACER: &str = "racer";

/// Commits the newest visible offset until that is refused: the last that was acknowledged, and why no more was.
async fn commit_until_refused(log: Log, stream: StreamId) -> (Offset, LogError) {
    let (racer, mut acknowledged) = (RACER.parse().unwrap(), Offset::NONE);
    loop {
        let visible = log.watermarks(stream).unwrap().visible;
        match within(log.commit_offset(stream, &racer, visible, Rewind::Ignore)).await {
            Ok(durable) => acknowledged = durable.get(),
            Err(error) => return (acknowledged, error),
        }
    }
}

/// With a ballast: the volume takes writes again, and is found too full to open the log; what is visible can be read
/// meanwhile. Then the ballast goes.
async fn wait_for_room(log: &Log, stream: StreamId, dir: &Path) {
    let Some(ballast) = std::env::var_os(CHILD_BALLAST) else { return };
    let link = dir.join("log/999999.log");
    std::fs::hard_link(ballast, &link).unwrap();
    // A probe is a file that comes and goes. The second one shows that the first, which succeeded, was not enough.
    for _ in 0..2 {
        let looked = || std::fs::metadata(dir).unwrap().modified().unwrap();
        let (before, begun) = (looked(), tokio::time::Instant::now());
        while looked() == before || dir.join("probe").exists() {
            assert!(begun.elapsed() < PATIENCE, "it does not probe");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(matches!(log.failure(), Some(LogError::Stopped(_))), "{:?}", log.failure());
        let seen = read_all(log, stream, StartAt::Earliest).await.unwrap();
        assert_eq!(seen.len() as u64, log.watermarks(stream).unwrap().visible.0);
    }
    std::fs::remove_file(link).unwrap();
}

/// Limits, or no longer limits, the size of files that this process writes.
fn limit_files(bytes: Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

#[test]
fn a_disk_that_takes_writes_again_is_written_to_again_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let told = run_child(dir.path(), &[(CHILD_RECOVERS, "1")]);
    let log = Log::open(options(dir.path())).unwrap();
    let stream = log.stream_named("shop").unwrap();
    assert_eq!(log.watermarks(stream).unwrap().visible.0, told[0]);
    assert_eq!(log.consumer(stream, &"audit".parse().unwrap()).unwrap().committed.0, told[0]);
    let seen = runtime().block_on(read_all(&log, stream, StartAt::Earliest)).unwrap();
    assert_eq!(seen.len() as u64, told[0]);
}

#[test]
fn a_log_that_needs_more_room_to_be_opened_than_there_is_waits_for_it_and_is_read_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let ballast = dir.path().join("ballast");
    let volume = rustix::fs::statvfs(dir.path()).unwrap();
    let length = (volume.f_bavail * volume.f_frsize).saturating_mul(2);
    std::fs::File::create(&ballast).unwrap().set_len(length).unwrap();
    let data = dir.path().join("data");
    let told = run_child(&data, &[(CHILD_RECOVERS, "1"), (CHILD_BALLAST, ballast.to_str().unwrap())]);
    let log = Log::open(options(&data)).unwrap();
    assert_eq!(log.watermarks(log.stream_named("shop").unwrap()).unwrap().visible.0, told[0]);
}

#[test]
fn a_disk_that_refuses_stops_all_writes_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let told = run_child(dir.path(), &[]);
    let log = Log::open(options(dir.path())).unwrap();
    let stream = log.stream_named("shop").unwrap();
    let marks = log.watermarks(stream).unwrap();
    assert!(marks.visible.0 >= told[0] && marks.confirmed_through.0 >= told[1], "{marks:?} after {told:?}");
    let seen = runtime().block_on(read_all(&log, stream, StartAt::Earliest)).unwrap();
    assert_eq!(seen.len() as u64, marks.visible.0);
}

/// Runs the child on this folder: what it said last was visible and confirmed.
fn run_child(dir: &Path, variables: &[(&str, &str)]) -> Vec<u64> {
    // The signal that comes with the limit is ignored, so that the write itself fails, as on a full disk.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "failing::child_that_writes_until_the_disk_refuses", "--nocapture"])
        .env(CHILD_DIR, dir)
        .envs(variables.iter().copied())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let (_, line) = text.rsplit_once("visible ").unwrap();
    let told: Vec<u64> = line.split_whitespace().take(2).map(|number| number.parse().unwrap()).collect();
    assert!(told[0] > 100);
    told
}
