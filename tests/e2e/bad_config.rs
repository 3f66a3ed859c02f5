//! A configuration that cannot be meant: refused at once with exit 1 and a line that names file, key and remedy.

use std::net::TcpListener;

use crate::support::{Command, Daemon, daemon::run};

fn refused(toml: &str, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dbstreamd.toml");
    std::fs::write(&file, toml).unwrap();
    for command in ["serve", "check"] {
        let done = Command::new(&[command, "--config", file.to_str().unwrap()]).current_dir(dir.path()).run();
        assert_eq!(done.status.code(), Some(1), "{command}: {}", done.stderr);
        for word in words.iter().chain(&["dbstreamd.toml"]) {
            assert!(done.error_line().contains(word), "{command} does not say {word:?}: {}", done.error_line());
        }
    }
}

#[test]
fn an_unknown_key() {
    refused("[[source]]\nname = \"a\"\nurl = \"postgres://h/d\"\ntabels = [\"public.*\"]\n", &["tabels", "4"]);
}

#[test]
fn a_wrong_type() {
    refused("[[source]]\nname = \"a\"\nurl = 17\n", &["url", "3"]);
}

#[test]
fn a_duplicate_source_name() {
    refused(
        "[[source]]\nname = \"twin\"\nurl = \"postgres://h/d\"\n[[source]]\nname = \"twin\"\nurl = \"postgres://h/e\"\n",
        &["twin"],
    );
}

#[test]
fn a_url_that_is_none() {
    refused("[[source]]\nname = \"a\"\nurl = \"mysql://hunter2@h/d\"\n", &["postgres://"]);
}

#[test]
fn a_file_that_is_not_there() {
    let done = run(&["serve", "--config", "/nonexistent/dbstreamd.toml"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.error_line().contains("/nonexistent/dbstreamd.toml"));
}

#[test]
fn no_source_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(&["serve"]).current_dir(dir.path()).run();
    assert_eq!(done.status.code(), Some(1));
    assert!(done.error_line().contains("--source"));
}

#[test]
fn usage_errors_exit_2() {
    for args in
        [&["serve", "--nonsense"][..], &["frobnicate"], &["tail", "--from", "yesterday"], &["tail", "--limit", "many"]]
    {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_port_in_use_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for flags in [["--grpc", &address, "--http", "127.0.0.1:0"], ["--grpc", "127.0.0.1:0", "--http", &address]] {
        let base = ["serve", "--source", "postgres://127.0.0.1:1/d", "--data-dir", data.to_str().unwrap()];
        let done = run(&[&base[..], &flags[..]].concat());
        assert_eq!(done.status.code(), Some(1));
        assert!(done.error_line().contains(&address) && done.error_line().contains("in use"), "{}", done.error_line());
    }
}

#[test]
fn the_interface_that_sockets_and_files_use_is_said_and_an_unknown_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("dbstreamd.toml");
    let of = |io: &str| {
        std::fs::write(
            &config,
            format!("io = \"{io}\"\n[[source]]\nname = \"a\"\nurl = \"postgres://u@127.0.0.1:1/d\"\n"),
        )
        .unwrap();
        ["--config".to_owned(), config.to_str().unwrap().to_owned()]
    };
    let daemon = Daemon::start_with(&of("io_uring"), &dir.path().join("data"));
    let io = daemon.health()["io"].clone();
    assert_eq!((&io["setting"], &io["chosen"]), (&"io_uring".into(), &"epoll".into()));
    assert!(io["why"].as_str().unwrap().contains("io_uring"), "{io}");
    assert!(daemon.stderr().contains("is not followed"), "{}", daemon.stderr());
    refused("io = \"uring\"\n[[source]]\nname = \"a\"\nurl = \"postgres://h/d\"\n", &["uring", "epoll"]);
}
