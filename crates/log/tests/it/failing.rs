//! A disk that refuses to write: nothing is acknowledged any more, everyone learns why, and what was visible stays.
//!
//! A full disk is imitated by a limit on the size of files that a child process may write.

use std::path::Path;
use std::process::{Command, Stdio};

use dbstreamd_log::{CreditWindow, Log, LogError, LogOptions, Pump, Rewind, StartAt};

use crate::support::*;

const CHILD_DIR: &str = "DBSTREAMD_LOG_FAILING_DIR";
/// In blocks of 512 bytes, as POSIX has it for `ulimit -f`.
const LIMIT_BLOCKS: u32 = 1200;

fn options(dir: &Path) -> LogOptions {
    LogOptions { tail_ring_bytes: 0, ..small(dir) }
}

/// Not a test by itself: what the test below runs as another process.
#[test]
fn child_that_writes_until_the_disk_refuses() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let log = Log::open(options(Path::new(&dir))).unwrap();
    let stream = log.open_stream(&"shop".parse().unwrap()).unwrap();
    let window = CreditWindow::new(1 << 20);
    runtime().block_on(async {
        let mut writer = Writer::begin(&log, stream).await;
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
    });
    assert!(matches!(log.close(), Err(LogError::Stopped(_))));
}

#[test]
fn a_disk_that_refuses_stops_all_writes_for_good_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // The signal that comes with the limit is ignored, so that the write itself fails, as on a full disk.
    let script = format!("trap '' XFSZ; ulimit -f {LIMIT_BLOCKS}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "failing::child_that_writes_until_the_disk_refuses", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let (_, line) = text.split_once("visible ").unwrap();
    let told: Vec<u64> = line.split_whitespace().take(2).map(|number| number.parse().unwrap()).collect();
    assert!(told[0] > 100);

    let log = Log::open(options(dir.path())).unwrap();
    let stream = log.stream_named("shop").unwrap();
    let marks = log.watermarks(stream).unwrap();
    assert!(marks.visible.0 >= told[0] && marks.confirmed_through.0 >= told[1], "{marks:?} after {told:?}");
    let seen = runtime().block_on(read_all(&log, stream, StartAt::Earliest)).unwrap();
    assert_eq!(seen.len() as u64, marks.visible.0);
}
