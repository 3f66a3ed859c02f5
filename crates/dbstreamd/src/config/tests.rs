//! Precedence, places of errors, and secrets.

use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(file: &str, variables: &[(&str, &str)], overrides: &Overrides) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dbstreamd.toml");
    std::fs::write(&path, file).unwrap();
    Config::load_with(Some(&path), overrides, &environment(variables))
}

fn refused(file: &str, variables: &[(&str, &str)]) -> String {
    let error = load(file, variables, &Overrides::default()).unwrap_err().to_string();
    assert!(!error.contains('\n'), "more than one line: {error}");
    assert!(!error.contains("s3cret"), "a secret in {error}");
    error
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let file = "data_dir = \"/file\"\n[grpc]\nlisten = \"127.0.0.1:1\"\nmax_subscribers = 7\n[log]\nretention_age = \"3d\"\nretention_bytes = \"none\"\n";
    let variables = [
        ("DBSTREAMD_GRPC_LISTEN", "127.0.0.1:2"),
        ("DBSTREAMD_DATA_DIR", "/env"),
        ("DBSTREAMD_LOG_GROUP_COMMIT_DELAY", "1ms"),
    ];
    let overrides = Overrides { grpc: Some("127.0.0.1:3".into()), ..Overrides::default() };
    let config = load(file, &variables, &overrides).unwrap();
    assert_eq!(config.grpc.listen.port(), 3);
    assert_eq!(config.http.listen.to_string(), HTTP_LISTEN);
    assert_eq!(config.log.dir, Path::new("/env"));
    assert_eq!(config.grpc.subscribers_max, 7);
    assert_eq!(config.log.retention.age, Some(std::time::Duration::from_secs(3 * 86_400)));
    assert_eq!(config.log.retention.bytes, None);
    assert_eq!(config.log.group_commit_delay_max, std::time::Duration::from_millis(1));
    assert_eq!(config.credit_window_bytes, 512 << 20);
}

#[test]
fn an_error_in_the_file_names_file_line_key_and_what_is_expected() {
    let unknown = refused("data_dir = \"x\"\n\n[grpc]\nlissten = \"a\"\n", &[]);
    assert!(
        unknown.contains("dbstreamd.toml:4: ") && unknown.contains("lissten") && unknown.contains("listen"),
        "{unknown}"
    );
    let wrong = refused("[memory]\ncredit_window = true\n", &[]);
    assert!(wrong.contains("dbstreamd.toml:2: memory.credit_window: ") && wrong.contains("512MiB"), "{wrong}");
    let count = refused("[http]\nmax_connections = 0\n", &[]);
    assert!(count.contains("at least 1"), "{count}");
    let broken = refused("[[source]\n", &[]);
    assert!(broken.contains("dbstreamd.toml:1"), "{broken}");
    let twice = refused(
        "[[source]]\nname = \"a\"\nurl = \"postgres://u@h/a\"\n[[source]]\nname = \"a\"\nurl = \"postgres://u@h/b\"\n",
        &[],
    );
    assert!(twice.contains("dbstreamd.toml:5: ") && twice.contains("\"a\""), "{twice}");
    let leaky = refused("[[source]]\ntables = \"postgres://u:s3cret@h/a\"\n", &[]);
    assert!(leaky.contains("source.tables"), "{leaky}");
    for leaky in [
        "[[source]]\ntables = \"postgres://u:p/s3cret@h/hidden\"\n",
        "[[source]]\ntables = \"host=h password = s3cret\"\n",
        "[grpc]\nlisten = \"postgres://u:p/s3cret@h/hidden\"\n",
        "[http]\nlisten = \"host=h password = s3cret\"\n",
        "[grpc]\nmax_connections = \"host=h password = s3cret\"\n",
        "[logging]\nformat = \"postgres://u:p/s3cret@h/hidden\"\n",
        "[[source]]\nname = \"postgres://u:p/s3cret@h/hidden\"\nurl = \"postgres://u@h/hidden\"\n",
        "[[source]]\n\"postgres://u:p/s3cret@h/hidden\" = 1\n",
        "[[source]]\nurl = \"postgres://u@h/hidden\"\ntables = [\"postgres://u:p/s3cret@h/hidden\"]\n",
    ] {
        let error = refused(leaky, &[]);
        assert!(!error.contains("hidden"), "part of a URL in {error}");
    }
    refused("", &[("DBSTREAMD_HTTP_LISTEN", "postgres://u:p/s3cret@h/d")]);
    let url = refused(
        "[[source]]\nname = \"a\"\nurl = \"postgres://u@h/a\"\n\n[[source]]\nname = \"b\"\nurl = \"mysql://u:s3cret@h/hidden\"\n",
        &[],
    );
    assert!(url.contains("dbstreamd.toml:5: source \"b\": url: ") && url.contains("postgres://"), "{url}");
    let nameless = refused("[[source]]\nname = \"x\"\n", &[]);
    assert!(nameless.contains("url"), "{nameless}");
}

#[test]
fn an_error_in_the_environment_names_the_variable() {
    let error = refused("", &[("DBSTREAMD_LOG_RETENTION_BYTES", "lots")]);
    assert!(
        error.contains("DBSTREAMD_LOG_RETENTION_BYTES") && error.contains("50GiB") || error.contains("size"),
        "{error}"
    );
    let error = refused("", &[("DBSTREAMD_SOURCE_URL", "postgres://u@h/a"), ("DBSTREAMD_SOURCE_BINARY", "perhaps")]);
    assert!(error.contains("DBSTREAMD_SOURCE_BINARY") && error.contains("true"), "{error}");
    let error = refused("", &[("DBSTREAMD_GRPC_LISTEN", "nowhere")]);
    assert!(error.contains("DBSTREAMD_GRPC_LISTEN") && error.contains("IP:PORT"), "{error}");
}

#[test]
fn sources_come_from_all_three_and_are_named_after_their_database() {
    let file = "[[source]]\nname = \"eu-1\"\nurl = \"postgres://u@h/shop\"\n";
    let variables = [
        ("DBSTREAMD_SOURCE__EU_1__SLOT", "mine"),
        ("DBSTREAMD_SOURCE__EU_1__RETENTION_AGE", "2h"),
        ("DBSTREAMD_SOURCE__BOOKS__RETENTION_AGE", "none"),
        ("DBSTREAMD_SOURCE__BOOKS__URL", "postgres://u@h/books"),
        ("DBSTREAMD_SOURCE_TABLES", "public.*, shop.orders"),
        ("DBSTREAMD_SOURCE_URL", "postgres://u@h/not_used"),
        ("DBSTREAMD_TYPO", "1"),
        ("DBSTREAMD_PG_BIN", "/usr/lib/postgresql/17/bin"),
    ];
    let overrides = Overrides {
        sources: vec![
            "postgres://u:s3cret@h/shop".into(),
            "postgres://u@other/shop".into(),
            "postgres://u@h/Ä b".into(),
        ],
        ..Overrides::default()
    };
    let config = load(file, &variables, &overrides).unwrap();
    let names: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["eu-1", "books", "shop", "shop-2", "b"]);
    assert_eq!(config.sources[0].slot, "mine");
    assert!(config.sources[0].publication.starts_with("dbstreamd_eu_1"));
    assert_eq!(config.sources[2].tables.len(), 2);
    assert_ne!(config.sources[3].slot, config.sources[2].slot);
    let kept: Vec<_> = config.retention_ages.iter().map(|(name, age)| (name.as_str(), *age)).collect();
    assert_eq!(kept, [("books", None), ("eu-1", Some(std::time::Duration::from_secs(7200)))]);
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(config.warnings.iter().any(|warning| warning.contains("DBSTREAMD_TYPO")));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn a_password_comes_from_a_file_or_a_variable_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pw"), "s3cret\n").unwrap();
    let path = dir.path().join("dbstreamd.toml");
    std::fs::write(&path, "[[source]]\nname = \"a\"\nurl = \"postgres://u@h/a\"\npassword_file = \"pw\"\n[[source]]\nname = \"b\"\nurl = \"postgres://u@h/b\"\npassword_env = \"B_PW\"\n").unwrap();
    let config = Config::load_with(Some(&path), &Overrides::default(), &environment(&[("B_PW", "s3cret")])).unwrap();
    for source in &config.sources {
        assert_eq!(source.connect.password.as_ref().unwrap().reveal(), "s3cret");
    }
    assert!(!format!("{config:?}").contains("s3cret"));
    let error = Config::load_with(Some(&path), &Overrides::default(), &environment(&[])).unwrap_err().to_string();
    assert!(error.contains("B_PW"), "{error}");
}

#[test]
fn an_open_port_is_warned_about() {
    let config = load("[grpc]\nlisten = \"0.0.0.0:7400\"\n", &[], &Overrides::default()).unwrap();
    assert!(config.warnings[0].contains("grpc.listen"));
    assert!(matches!(config.with_source(), Err(ConfigError::NoSource)));
}

#[test]
fn every_setting_is_in_the_operations_guide() {
    let guide = include_str!("../../../../docs/operations.md");
    for (path, _) in SETTINGS {
        assert!(
            guide.contains(&format!("`{path}`")) && guide.contains(&format!("`{}`", variable(path))),
            "{path} is not documented"
        );
    }
    for (key, _) in settings::SOURCE_SETTINGS {
        assert!(guide.contains(&format!("`{key}`")), "source.{key} is not documented");
    }
}

#[test]
fn what_happens_at_a_break_is_said_per_source_and_nothing_else_is_accepted() {
    use dbstreamd_source::{OnGap, OnLostSlot};
    let file = |more: &str| format!("[[source]]\nname = \"a\"\nurl = \"postgres://u@h/a\"\n{more}");
    let of = |more: &str, variables: &[(&str, &str)]| {
        let source = load(&file(more), variables, &Overrides::default()).unwrap().sources.remove(0);
        (source.on_gap, source.on_lost_slot)
    };
    assert_eq!(of("", &[]), (OnGap::NewEpoch, OnLostSlot::Fail));
    assert_eq!(of("on_gap = \"fail\"\non_lost_slot = \"recreate\"\n", &[]), (OnGap::Fail, OnLostSlot::Recreate));
    assert_eq!(of("", &[("DBSTREAMD_SOURCE__A__ON_GAP", "fail")]), (OnGap::Fail, OnLostSlot::Fail));
    let wrong = refused(&file("on_gap = \"ignore\"\n"), &[]);
    assert!(wrong.contains("new_epoch") && wrong.contains("fail"), "{wrong}");
}
