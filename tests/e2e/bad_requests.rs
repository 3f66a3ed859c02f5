//! What a client can get wrong: it gets a clear answer, and nobody else notices.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::ordering::wait_visible;
use crate::support::{Daemon, cluster, daemon::run, database};

fn tail_error(daemon: &Daemon, args: &[&str]) -> String {
    let done = run(&[&["tail", "--server", &daemon.server_url()], args].concat());
    assert_eq!(done.status.code(), Some(1), "{args:?}: {}{}", done.stdout, done.stderr);
    done.error_line().to_owned()
}

#[test]
fn an_unknown_stream_an_offset_past_the_end_and_nonsense_on_the_ports() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY)");
    let daemon = Daemon::serving(&[&url]);
    cluster.psql("shop", "INSERT INTO t VALUES (1), (2), (3)").unwrap();
    wait_visible(&daemon, 3);

    let line = tail_error(&daemon, &["warehouse"]);
    assert!(line.contains("warehouse") && line.contains("shop"), "it names what there is: {line}");
    let line = tail_error(&daemon, &["shop", "--from", "17"]);
    assert!(line.contains("17") && line.contains("newest event is 3 and the next will be 4"), "{line}");
    let refused = run(&["tail", "shop", "--server", "http://127.0.0.1:1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.error_line().contains("127.0.0.1:1"), "{}", refused.error_line());

    for address in [&daemon.grpc, &daemon.http] {
        for noise in [
            &b"\0\xff\x13random bytes\r\n\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff",
            &[0x16; 70_000],
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
            // The peer may close before it took everything.
            let _ = stream.write_all(noise);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.take(1 << 20).read_to_end(&mut answer);
            assert!(answer.len() < 1 << 20);
        }
    }
    assert_eq!(daemon.everything("shop").len(), 3, "the daemon goes on");
    assert_eq!(daemon.health()["status"], "SERVING");
}

#[test]
fn an_offset_below_the_trim_point_is_refused_with_the_trim_point() {
    let cluster = cluster();
    let url = database(&cluster, "shop", "CREATE TABLE t (id int PRIMARY KEY, body text)");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("dbstreamd.toml");
    // Partitions of 1 MiB and a log of at most 2 MiB: old ones go quickly.
    let text = format!(
        "[log]\npartition_bytes = \"1MiB\"\nretention_bytes = \"2MiB\"\n[[source]]\nname = \"shop\"\nurl = \"{url}\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start_with(&["--config".into(), config.to_str().unwrap().into()], &dir.path().join("data"));
    daemon.wait_streaming();
    let mut batch = 0;
    let trim = crate::support::eventually("the log was trimmed", || {
        let (from, to) = (batch * 200 + 1, batch * 200 + 200);
        batch += 1;
        let sql = format!(
            "INSERT INTO t SELECT g, (SELECT string_agg(md5(g::text || h::text), '') FROM generate_series(1, 100) h) FROM generate_series({from}, {to}) g"
        );
        cluster.psql("shop", &sql).unwrap();
        let trim = daemon.streams()[0]["trim_point"].as_u64()?;
        (trim > 1).then_some(trim)
    });
    let line = tail_error(&daemon, &["shop", "--from", "1"]);
    assert!(line.contains("removed by retention"), "{line}");
    let oldest: u64 = line.split("can still be read, is ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
    assert!(oldest >= trim, "{line}");
    // Retention may overtake a reader that is told where to begin; it then says so, and the next one finds the beginning.
    let first = crate::support::eventually("the oldest event is read", || {
        let url = daemon.server_url();
        let done = run(&["tail", "shop", "--server", &url, "--from", "earliest", "--limit", "1", "--format", "json"]);
        done.status.success().then(|| serde_json::from_str::<serde_json::Value>(&done.stdout).unwrap())
    });
    assert!(first["offset"].as_u64().unwrap() >= trim);
}
